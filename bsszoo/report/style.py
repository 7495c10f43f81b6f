"""The look of the report page: one style sheet for wide and narrow screens, light and dark, and paper."""

from __future__ import annotations

from typing import Final

CSS: Final = """\
:root { color-scheme: light dark; --paper: #ffffff; --panel: #f4f6f8; --ink: #1b2127; --soft: #5a6570;
  --line: #d5dbe1; --mark: #b34700; --warn: #fff4d6; --warn-line: #c98a00; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181c; --panel: #1f252b; --ink: #e8ecef; --soft: #a3aeb8;
  --line: #39424b; --mark: #ff9a57; --warn: #3a2f12; --warn-line: #d9a62e; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.5; overflow-wrap: break-word;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; font-size: 16px; }
main { max-width: 74rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .25rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem; padding-bottom: .25rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.25rem 0 .4rem; }
p { margin: .5rem 0; max-width: 50rem; }
.soft, figcaption { color: var(--soft); font-size: .9rem; }
.caution { background: var(--warn); border-left: .4rem solid var(--warn-line); padding: .6rem 1rem; margin: 1.25rem 0;
  border-radius: .25rem; max-width: 62rem; }
.note { background: var(--panel); border-radius: .4rem; padding: .5rem .9rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); gap: .75rem; }
.card { background: var(--panel); border-radius: .5rem; padding: .6rem .9rem .7rem; --bar: #d55e00; }
.card.original { --bar: #0072b2; } .card.uniform { --bar: #009e73; }
.card h3 { margin: 0; } .card p { margin: 0 0 .3rem; } .card.first { outline: 2px solid var(--mark); }
.card svg { display: block; width: 100%; max-width: 24rem; height: auto; font-size: 11px;
  font-variant-numeric: tabular-nums; }
.card svg text { fill: var(--ink); } .card svg .faint { fill: var(--soft); }
.card svg .bar { fill: var(--bar); } .card svg .mark { fill: var(--ink); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 10.5rem), 1fr)); gap: .75rem;
  margin: 1.25rem 0; }
.tile { background: var(--panel); border-radius: .5rem; padding: .7rem .9rem; }
.tile b { display: block; font-size: 1.5rem; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tile span { display: block; font-size: .85rem; color: var(--soft); }
.wide { overflow-x: auto; border: 1px solid var(--line); border-radius: .4rem; }
.tall { max-height: 32rem; overflow-y: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .65rem; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child > td { border-bottom: 0; }
thead th { background: var(--panel); white-space: nowrap; position: sticky; top: 0; }
.n { text-align: right; white-space: nowrap; }
td.name { min-width: 7.5rem; }
tr.found-first { font-weight: 600; }
tr.failed td { color: var(--mark); }
.error { white-space: pre-wrap; }
code, pre { font-family: ui-monospace, "Cascadia Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
code { font-size: .85em; overflow-wrap: anywhere; user-select: all; -webkit-user-select: all; }
td code { white-space: nowrap; overflow-wrap: normal; }
pre { background: var(--panel); border-radius: .4rem; padding: .7rem .9rem; overflow-x: auto; margin: .3rem 0;
  font-size: .82rem; line-height: 1.45; }
pre code { font-size: inherit; white-space: pre; overflow-wrap: normal; }
dl.codes { margin: 0; }
dl.codes dt { font-weight: 600; margin-top: .6rem; }
dl.codes dd { margin: 0; }
dl.facts { display: grid; grid-template-columns: minmax(8rem, max-content) 1fr; gap: .3rem 1.25rem; margin: 0; }
dl.facts dt { color: var(--soft); }
dl.facts dd { margin: 0; min-width: 0; }
dl.facts ul { margin: 0; padding-left: 1.1rem; }
details { border: 1px solid var(--line); border-radius: .4rem; padding: .5rem .9rem; margin: .6rem 0; }
summary { cursor: pointer; font-weight: 600; overflow-wrap: anywhere; }
.plots { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1.5rem 2.5rem; align-items: start; }
.plots figure { margin: 0; }
.plots .long { grid-column: 2; grid-row: 1 / span 2; }
.plots h3 { margin-top: 0; }
.plots svg { display: block; max-width: 38rem; }
figcaption { margin-top: .4rem; }
@media (max-width: 52rem) { .plots { grid-template-columns: minmax(0, 1fr); }
  .plots .long { grid-column: 1; grid-row: auto; } }
@media (max-width: 30rem) { main { padding: 1rem .8rem 3rem; } h1 { font-size: 1.4rem; }
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); } .tile b { font-size: 1.2rem; }
  dl.facts { grid-template-columns: minmax(0, 1fr); gap: 0; } dl.facts dt { margin-top: .5rem; } }
@media print { :root { --paper: #fff; --panel: #f4f6f8; --ink: #000; --soft: #444; --line: #bbb; --mark: #b34700;
    --warn: #fff; --warn-line: #888; }
  main { max-width: none; padding: 0; } figure, .tile, .caution, tr { break-inside: avoid; }
  .card { break-inside: avoid; }
  .wide, .tall { overflow: visible; max-height: none; }
  pre, pre code, td code { white-space: pre-wrap; overflow-wrap: anywhere; }
  thead th { position: static; } h2, h3 { break-after: avoid; } }
"""
