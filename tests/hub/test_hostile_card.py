"""A model card shows the texts of a run's files as they are: none becomes HTML, a link, an image or a line of its own.

The card is rendered by markdown-it, which is no part of bsszoo's own code, with what the Hub's reader takes as well:
tables, struck-through text and addresses as links.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from markdown_it.token import Token
from safetensors.torch import save_file

import bsszoo
from bsszoo.errors import BssZooError, WeightsError
from bsszoo.hub.card import code_text, model_card, plain
from bsszoo.hub.contents import FILES, write_contents
from bsszoo.hub.push import push
from bsszoo.hub.source import find_trained

CODE = "resnet18_c8-8-8-8_l1-1-1-1"
HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[x](https://evil.example)",
    "![x](https://evil.example)",
    "[x]: https://evil.example\n\n[x]",
    "https://evil.example/a",
    "www.evil.example",
    "a@evil.example",
    "<https://evil.example>",
    "`</code><b>`",
    "`` ` ``",
    "*x* **y** _z_ __w__ ~~v~~",
    "a | b | c",
    "x\n\n# Accuracy\n\n| 99.99 |\n|---|",
    "# Head",
    "- item",
    "1. item",
    "> said",
    "---",
    "===",
    "    indented",
    "```\nfence",
    "&lt;b&gt; &amp;",
    "\x1b[31mred\x07",
    "$x$",
    "a\\",
    "\\[x](https://evil.example)",
    "{{braces}}",
    "@somebody",
    "mailto:a@evil.example",
    "x \u202e y",
    "<!-- -->",
    "HTTP://EVIL.EXAMPLE",
    "\u2028<b>",
]


def files(folder: Path, text: str) -> Path:
    """A trained network with its search, whose every text is the given one."""
    folder.mkdir(parents=True, exist_ok=True)
    network = bsszoo.create(CODE, num_classes=3)
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, folder / "model.safetensors")
    config = {
        "architecture": "bsszoo_code",
        "num_classes": 3,
        "label_names": [text] * 3,
        "model_args": {"code": bsszoo.Code.parse(CODE).to_dict()},
        "pretrained_cfg": {"input_size": [3, 32, 32]},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "summary.json").write_text(json.dumps(summary(text)))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe(text)))
    (folder / "metrics.csv").write_text("epoch\n1\n")
    (folder / "search.json").write_text(json.dumps(result(text)))
    (folder / "search_trials.csv").write_text("number,score,code\n0,1.5,x\n1,nan,y\n")
    return folder


def summary(text: str) -> dict[str, Any]:
    return {
        "dataset": text,
        "validated_on": text,
        "top1": 50.0,
        "top5": 90.0,
        "val_pictures": 10,
        "test_top1": 40.0,
        "test_top5": 80.0,
        "tested_on": text,
        "test_pictures": 5,
        "weights": text,
        "train_pictures": 20,
        "epochs": 1,
        "seed": 0,
        "device": text,
        "processes": 1,
        "precision": text,
        "versions": {text: text, "bsszoo": "0.1.0"},
    }


def recipe(text: str) -> dict[str, Any]:
    return {
        "model": {"pretrained": text},
        "optim": {"name": text, "lr": 0.1, "batch_size": 8, "weight_decay": 0.0},
        "data": {"image_size": 32},
        "loss": {"label_smoothing": 0.1, "teacher": text},
        "schedule": {"name": text},
    }


def result(text: str) -> dict[str, Any]:
    network = {
        "label": text,
        "role": "found",
        "code": CODE,
        "macs": 5000,
        "params": 9000,
        "score": 1.5,
        "tests": [50.0],
    }
    return {
        "family": "resnet18",
        "reference": text,
        "budget": {"macs": 10_000, "min_macs": 9_000},
        "candidates": 20,
        "scale": 0.5,
        "seed": 0,
        "trials": {"complete": 2, "failed": 0},
        "best": {"code": CODE},
        "finished": None,
        "evaluator": {"name": text, "measures": text, "caution": text},
        "networks": [network],
        "notes": [text],
        "confirmation": {"measures": text, "networks": [network], "verdicts": [text]},
    }


def card(folder: Path, out: Path, licence: str | None = None) -> str:
    out.mkdir(exist_ok=True)
    write_contents(find_trained(folder), "me/net", out, licence=licence)
    return (out / "README.md").read_text(encoding="utf-8")


def body(text: str) -> str:
    return text.partition("\n---\n")[2]


def tokens(text: str) -> list[Token]:
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    return [inner for token in parser.parse(body(text)) for inner in (token, *(token.children or ()))]


def shape(text: str) -> list[tuple[str, str]]:
    """What the card is made of, without its texts."""
    return [(t.type, t.tag) for t in tokens(text) if t.type not in ("text", "text_special", "softbreak", "inline")]


@pytest.fixture(scope="module")
def harmless(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("harmless")
    return card(files(folder / "run", "words"), folder / "out", "words")


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_of_a_run_is_markup(text: str, harmless: str, tmp_path: Path) -> None:
    written = card(files(tmp_path / "run", text), tmp_path / "out", text)
    assert shape(written) == shape(harmless)
    found = tokens(written)
    assert not [t for t in found if t.type.startswith("html")]
    assert [t.attrs for t in found if t.type == "link_open"] == []
    assert [t.attrs["src"] for t in found if t.type == "image"] == ["search.png"]
    # What readers take for an address without brackets stands nowhere in the source.
    assert not re.search(r"(?i)https?://evil|www\.evil|mailto:|\w@evil", re.sub(r"`[^`\n]*`", "", body(written)))
    assert not [c for c in written if c < " " and c not in "\n\t"]
    # And a person reads what was written: once as plain text, once as code.
    shown = " ".join(text.split())
    if shown.isprintable() and not shown.startswith("\\"):  # that one is taken for a path of Windows, and shortened
        assert any(t.content == shown.replace("`", "'").replace("|", "/") for t in found if t.type == "code_inline")
        inline = [
            "".join(c.content for c in t.children or () if c.type in ("text", "text_special"))
            for t in MarkdownIt("commonmark").enable("table").parse(body(written))
            if t.type == "inline"
        ]
        assert shown in inline


@pytest.mark.parametrize(
    "text", [*HOSTILE, "x\n---\n# no metadata", "a: b", "!!python/object:os.system x", "null", "'"]
)
def test_the_metadata_hold_the_texts_as_data(text: str, tmp_path: Path) -> None:
    written = card(files(tmp_path / "run", text), tmp_path / "out", "mit")
    data = ModelCard(written).data
    shown = {m.dataset_name for m in data.eval_results}
    assert len(shown) == 1
    assert " ".join(text.split()) in shown or not text.isprintable()
    assert (data.license, data.library_name) == ("mit", "bsszoo")
    assert ModelCard(written).text.lstrip().startswith("# net")


def test_plain_text_stays_readable() -> None:
    for text in ("torch/fashion_mnist", "val (synthetic/64)", "at 32 px, 95.5% of 10,000", "__init", "resnet18_c8-8"):
        assert ("&#" in plain(text)) == (text == "__init")
    assert (code_text(""), code_text("a`b|c")) == ("-", "`a'b/c`")


DAMAGED: list[Any] = [None, True, -1, 1.5, float("nan"), float("inf"), 10**18, "", "text", [], {}, [[]], {"a": {}}]


def test_damaged_records_are_refused_or_published_but_never_a_traceback(tmp_path: Path) -> None:
    """Each value of each record in turn is something else, or is missing."""
    folder = files(tmp_path / "run", "words")
    written, refused = 0, []
    records: dict[str, Any] = {
        "summary.json": summary("words"),
        "search.json": result("words"),
        "recipe.yaml": recipe("words"),
    }
    for file, record in records.items():
        write = yaml.safe_dump if file.endswith("yaml") else json.dumps
        for number, (place, key) in enumerate(_places(record)):
            whole = place[key]
            for value in DAMAGED[number % 3 :: 3]:
                place[key] = value
                (folder / file).write_text(write(record))
                try:
                    text = model_card(find_trained(folder), "me/net", timm=None, num_classes=3, in_chans=3)
                except BssZooError as error:
                    refused.append(str(error))
                else:
                    written += 1
                    assert not re.search(r"\b(nan|inf)\b", body(text)), (file, key, value)
            place[key] = whole
        for key in list(record):
            (folder / file).write_text(write({k: v for k, v in record.items() if k != key}))
            with suppress(BssZooError):
                model_card(find_trained(folder), "me/net", timm=None, num_classes=3, in_chans=3)
        (folder / file).write_text(write(record))
    assert written > 50
    assert len(refused) > 50
    assert max(map(len, refused)) < 700


def _places(value: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        found += [(value, key), *_places(value[key])]
    return found


@pytest.mark.parametrize(
    ("file", "data"),
    [
        ("summary.json", b"[" * 100_000),
        ("summary.json", b"[1]"),
        ("summary.json", b"\xff"),
        ("search.json", b"{"),
        ("recipe.yaml", b"a: [b"),
        ("recipe.yaml", b"\xff\xfe\x00"),
        ("search_trials.csv", b"number,score\nx,1\n"),
        (
            "recipe.yaml",
            b"a: &a ["
            + b"x," * 9
            + b"]\nb: &b ["
            + b"*a," * 9
            + b"]\nc: &c ["
            + b"*b," * 9
            + b"]\nd: &d ["
            + b"*c," * 9
            + b"]\ne: ["
            + b"*d," * 9
            + b"]\n",
        ),
        ("search_trials.csv", b'number,score\n"' + b"9" * 200_000 + b'",1\n'),
        ("metrics.csv", b"\xff"),
    ],
)
def test_damaged_files_are_named(file: str, data: bytes, tmp_path: Path) -> None:
    folder = files(tmp_path / "run", "words")
    (folder / file).write_bytes(data)
    with pytest.raises(WeightsError, match=file.replace(".", r"\.")):
        push(folder, "me/net", dry_run=tmp_path / "out")
    assert not [name for name in FILES if name == "README.md" and (tmp_path / "out" / name).exists()]


@pytest.mark.parametrize("folder", ["../elsewhere", "/etc", "a/../../elsewhere", "a\\..\\b", 3, ["a"]])
def test_a_search_names_no_folder_outside_itself(folder: object, tmp_path: Path) -> None:
    files(tmp_path / "elsewhere", "words")
    run = tmp_path / "run"
    run.mkdir()
    (run / "result.json").write_text(json.dumps({**result("words"), "finished": {"folder": folder}}))
    with pytest.raises(WeightsError, match=r"result\.json is broken"):
        push(run, "me/net", dry_run=tmp_path / "out")
