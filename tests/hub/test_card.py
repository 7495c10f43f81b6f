"""The model card says what is known of a network and nothing else; every figure comes out again from another source."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import save_file
from strategies import FAMILY_NAMES
from train.small import small_recipe

import bsszoo
from bsszoo.codes import family_of
from bsszoo.compression.finish import Finish
from bsszoo.hub.card import model_card
from bsszoo.hub.contents import write_contents
from bsszoo.hub.source import Trained, find_trained, portable_recipe, portable_trials, without_paths
from bsszoo.models.build import build

ORIGINAL = "mobilenetv2_c16-16-24-24-32-32_l2-1-1-1-1-1_t6-6-6-6-6-6_stem16_stage2-8x1"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    recipe = small_recipe(folder, "data.dataset=synthetic/64", "schedule.epochs=1", "schedule.warmup_epochs=0")
    bsszoo.compress(
        ORIGINAL,
        flops="60%",
        trials=3,
        batch=3,
        measure=False,
        out=folder / "run",
        finish=Finish(recipe, None, device="cpu"),
    )
    return folder / "run"


@pytest.fixture(scope="module")
def written(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    write_contents(find_trained(run), "acme/shoes", folder, licence="apache-2.0")
    return folder


def rows(text: str, first: str) -> list[list[str]]:
    """The rows of the table under the heading whose first cell this is."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first} |"))
    found = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def test_its_figures_are_those_of_the_network_and_of_the_runs_files(run: Path, written: Path) -> None:
    text = (written / "README.md").read_text()
    result = json.loads((run / "result.json").read_text())
    summary = json.loads((run / result["finished"]["folder"] / "summary.json").read_text())
    network = bsszoo.create(f"local-dir:{written}", pretrained=True)
    params = sum(p.numel() for p in network.parameters())
    assert f"exactly {params:,}" in text
    cost = bsszoo.cost(network.default_cfg and bsszoo.Code.parse(summary["code"]), summary["image_size"], num_classes=4)
    assert f"exactly {cost.macs:,}" in text
    # Stage by stage, against the built network's own modules.
    table = {row[0]: row for row in rows(text, "module")}
    assert table["classifier"][3] == "4"
    assert [row[3] for name, row in table.items() if name.startswith("blocks.")] == [
        str(stage[-1].conv_pwl.out_channels if hasattr(stage[-1], "conv_pwl") else stage[-1].conv_pw.out_channels)
        for stage in network.blocks
    ]
    depths = [int(row[4]) for name, row in table.items() if name.startswith("blocks.")]
    assert depths == [len(stage) for stage in network.blocks]

    (measured,) = rows(text, "data set")
    assert measured == [
        "synthetic/64",
        summary["validated_on"],
        str(summary["val_pictures"]),
        f"{summary['top1']:.2f}",
        f"{summary['top5']:.2f}",
    ]
    networks = rows(text, "network")
    assert [row[1].strip("`") for row in networks] == [n["code"] for n in result["networks"]]
    assert sum("(this network)" in row[0] for row in networks) == 1
    assert "![" in text
    assert result["evaluator"]["caution"] in text
    assert "Latency: not measured" in text
    assert "licence" in text.lower()


def test_its_metadata_are_what_the_hub_reads(run: Path, written: Path) -> None:
    data = ModelCard.load(written / "README.md").data
    summary = json.loads((written / "training.json").read_text())
    assert (data.license, data.library_name, data.pipeline_tag) == ("apache-2.0", "bsszoo", "image-classification")
    first, second = data.eval_results
    assert (first.metric_type, first.metric_value, first.dataset_split) == (
        "accuracy",
        pytest.approx(summary["top1"], abs=1e-4),
        summary["validated_on"],
    )
    assert second.metric_value == pytest.approx(summary["top5"], abs=1e-4)
    assert run.exists()


def test_the_picture_shows_the_search_and_is_the_same_each_time(run: Path, written: Path, tmp_path: Path) -> None:
    with Image.open(written / "search.png") as picture:
        assert picture.width > 600
        assert picture.convert("L").getextrema()[0] < 100, "something is drawn"
    files = write_contents(find_trained(run), "acme/shoes", tmp_path, licence="apache-2.0")
    assert {f: (tmp_path / f).read_bytes() for f in files} == {f: (written / f).read_bytes() for f in files}


def test_what_nobody_measured_says_so(tmp_path: Path) -> None:
    code = "resnet18_c64-8-16-24_l1-1-1-1"
    save_file(build(bsszoo.Code.parse(code), num_classes=5).state_dict(), tmp_path / "net.safetensors")
    (tmp_path / "out").mkdir()
    write_contents(find_trained(tmp_path / "net.safetensors", code=code), "acme/plain", tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "## Accuracy\n\nNot measured" in text
    assert "## Training\n\nNot recorded" in text
    assert "no licence was stated" in text
    assert "The search of the code" not in text
    assert "without bsszoo" in text
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.eval_results is None
    assert card.data.library_name == "timm"
    # No percentage but the stages' shares of the cost.
    assert re.findall(r"[\d.]+%", text) == re.findall(
        r"[\d.]+%", "\n".join(line for line in text.splitlines() if line.startswith("|"))
    )


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_every_family_has_a_card(family: str) -> None:
    code = bsszoo.Space.of(family).template
    text = model_card(Trained(code, Path("net.safetensors")), "acme/net", timm=None, num_classes=10, in_chans=3)
    assert f"| code | `{code}` |" in text
    stages = rows(text, "module")
    depths = [int(row[4]) for row in stages]
    assert [depth for depth in depths if depth > 1] == [n for n in (code.stage2_depth, *code.depths) if n > 1]
    letter = family_of(family).letter[:1]
    assert (f", {letter} " in text) == bool(letter)


def test_paths_of_this_machine_are_shortened() -> None:
    given = {
        "a": "/home/me/data/x.safetensors",
        "b": ["read (/opt/data/set) here", "C:\\users\\me\\w.pth"],
        "c": "local-dir:/srv/a/b",
        "d": "hf-hub:org/name@v1",
        "e": "https://host/a/b/c",
        "f": "torch/fashion_mnist",
        "g": 3,
        "h": "1/2 of it",
        "i": "~/runs/first/model.safetensors",
        "j": "/home/me/My Documents/a b/x.pth",
        "k": "../clients/acme corp/model.safetensors",
        "l": "latency:/home/me/x/y.json",
        "m": "\\\\server\\share\\x",
        "n": "/data",
        "o": "file:///home/me/x",
        "pretrained": "runs/client x/model.safetensors",
        "p": "a/b, c/d",
    }
    assert without_paths(given) == {
        "a": "x.safetensors",
        "b": ["read (set) here", "w.pth"],
        "c": "local-dir:b",
        "d": "hf-hub:org/name@v1",
        "e": "https://host/a/b/c",
        "f": "torch/fashion_mnist",
        "g": 3,
        "h": "1/2 of it",
        "i": "model.safetensors",
        "j": "x.pth",
        "k": "model.safetensors",
        "l": "latency:y.json",
        "m": "x",
        "n": "data",
        "o": "file:x",
        "pretrained": "model.safetensors",
        "p": "a/b, c/d",
    }
    recipe = "model: {name: resnet18, pretrained: /home/me/start.safetensors}\n"
    assert "/home" not in portable_recipe(recipe)
    assert portable_recipe("model: {name: resnet18}  # as it is\n") == "model: {name: resnet18}  # as it is\n"


def test_messages_of_failed_evaluations_stay_here() -> None:
    text = 'number,score,error,trace,repeats\n0,1.5,,,\n1,,"boom /home/me","File ""/home/me/x.py"", line 3",\n'
    found = list(csv.DictReader(io.StringIO(portable_trials(text))))
    assert found == [{"number": "0", "score": "1.5", "repeats": ""}, {"number": "1", "score": "", "repeats": ""}]
