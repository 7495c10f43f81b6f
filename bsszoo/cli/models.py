"""``bsszoo list``, ``bsszoo show``, ``bsszoo cost``: what the zoo holds and what networks cost."""

from __future__ import annotations

import json
from typing import Annotated

import typer

NetworkArgument = Annotated[
    str, typer.Argument(metavar="NAME_OR_CODE", help="A name of `bsszoo list`, or a code's text.", show_default=False)
]
SizeOption = Annotated[
    int | None,
    typer.Option("--image-size", metavar="PX", help="Side of the square input; by default the network's own."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def list_command(
    pattern: Annotated[
        str | None, typer.Argument(help="Shell pattern, e.g. '*autobss*' (in quotes).", show_default=False)
    ] = None,
    family: Annotated[
        str | None, typer.Option(help="Only this family, e.g. resnet50.", show_default=False)
    ] = None,
    pretrained: Annotated[
        bool | None,
        typer.Option("--pretrained/--not-pretrained", help="Only networks with, or without, published weights."),
    ] = None,
    codes: Annotated[bool, typer.Option("--codes", help="Print each network's code as well.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the networks of the zoo with their exact costs and the paper's figures."""
    from bsszoo.zoo.entry import find, list_models

    found = [find(name) for name in list_models(pattern, family=family, pretrained=pretrained)]
    if as_json:
        rows = [{"name": e.name, "code": str(e.code), "macs": e.cost.macs, "two_x_macs": e.cost.macs2,
                 "params": e.cost.params, "weights": [t.tag for t in e.tags if t.published]} for e in found]
        typer.echo(json.dumps(rows, indent=2))
        return
    if not found:
        typer.echo("No network of the zoo matches.", err=True)
        raise typer.Exit(1)
    from bsszoo.cli.console import say, show
    from bsszoo.report.tables import ListRow, model_list_table

    show(model_list_table([
        ListRow(
            name=e.name, family=e.code.family, code=str(e.code), macs=e.cost.macs, params=e.cost.params,
            paper=f"{e.paper.macs} {e.paper.params}",
            weights="timm" if any(t.published for t in e.tags) else "none published",
        )
        for e in found
    ], with_codes=codes))
    if any(e.code.stride_in == "1x1" for e in found):
        say("Of the maskrcnn and retinanet entries these are the backbone's figures at 800 px; the paper prints the "
            "whole detector's.")


def show_command(network: NetworkArgument, image_size: SizeOption = None) -> None:
    """Show a network stage by stage: operators, sizes, widths, depths, MACs and parameters."""
    from bsszoo.cli.console import say, show
    from bsszoo.codes.cost import code_cost
    from bsszoo.codes.space import Space
    from bsszoo.report.tables import code_summary, stage_table
    from bsszoo.zoo.entry import entry_of, resolve_code

    code = resolve_code(network)
    show(code_summary(code, code_cost(code, image_size), image_size), "", stage_table(code, image_size))
    entry = entry_of(code)
    if entry is not None:
        say("", f"In the zoo as {entry.name}: {entry.paper.place}, printed there as {entry.paper.macs} FLOPs and "
            f"{entry.paper.params} parameters.", *(f"- {note}" for note in entry.notes))
    reasons = Space.of(code.family).reasons(code)
    if reasons:
        say("", "Outside section B.2.2's ranges (it builds all the same): " + "; ".join(reasons) + ".")


def cost_command(
    networks: Annotated[
        list[str], typer.Argument(metavar="NAME_OR_CODE...", help="Names of `bsszoo list`, or codes' texts.",
                                  show_default=False)
    ],
    image_size: SizeOption = None,
    num_classes: Annotated[int, typer.Option(help="Outputs of the classifier; 0 counts without one.")] = 1000,
    check: Annotated[
        bool, typer.Option("--check", help="Build each network and count again with thop; a difference is an error.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Print what networks cost: MACs (the paper's FLOPs), 2 x MACs, parameters, activations."""
    from bsszoo.zoo.entry import cost, resolve_code

    rows = []
    for network in networks:
        figures = cost(network, image_size, num_classes=num_classes)
        rows.append({"network": network, "code": str(resolve_code(network)), "macs": figures.macs,
                     "two_x_macs": figures.macs2, "params": figures.params, "activations": figures.activations})
        if not as_json:
            from bsszoo.cli.console import show
            from bsszoo.report.tables import cost_line

            show(f"{network}:", cost_line(figures),
                 f"exactly: MACs {figures.macs}, params {figures.params}, activations {figures.activations}")
        if check:
            from bsszoo.evaluate.recount import recount

            macs, params = recount(resolve_code(network), image_size, num_classes=num_classes)
            rows[-1]["thop_macs"], rows[-1]["built_params"] = macs, params
            if not as_json:
                show(f"counted again by thop on the built network: MACs {macs}, params {params}: "
                     + ("equal" if (macs, params) == (figures.macs, figures.params) else "DIFFERENT"))
            if (macs, params) != (figures.macs, figures.params):
                from bsszoo.errors import RunError

                raise RunError(f"{network}: the formula gives {figures.macs} MACs and {figures.params} params, the "
                               f"built network {macs} and {params}. This is a bug of bsszoo: please report it.")
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
