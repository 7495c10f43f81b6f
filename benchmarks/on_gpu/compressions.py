"""A trained network's compression and a search judged by training, on Fashion-MNIST."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from on_gpu.data import FASHION, fashion
from on_gpu.steps import Part, Row, Rows, Setting, Step, command, read_json
from on_gpu.trainings import RECIPE, TOY, mean_95, sets_of, train_words


def compressed(setting: Setting, rows: Rows) -> None:
    """``bsszoo train`` of ResNet-18 on all training images, then ``bsszoo compress RUN --flops 50%``."""
    data, toy = fashion(setting, rows), setting.toy
    base, out = setting.work / "base", setting.work / "compress"
    sets = sets_of(
        setting,
        f"model.name={TOY if toy else 'resnet18'}",
        f"schedule.epochs={4 if toy else 5}",
        "schedule.warmup_epochs=0.5",
        f"optim.lr={0.02 if toy else 0.05}",
        *([] if toy else ["run.precision=bfloat16", "run.channels_last=true"]),
        workers=setting.workers,
    )

    def train() -> Row:
        seconds = command(train_words(setting, data, base, sets))
        summary = read_json(base / "summary.json")
        return {"what": "training", "total": seconds, "code": summary["code"], "top1": summary["top1"]}

    rows.keep("base", train)
    words = [sys.executable, "-m", "bsszoo", "compress", str(base), "--flops", "50%", "--data", str(data)]
    words += ["--dataset", FASHION, "--out", str(out), "--confirm", "2", "--confirm-most", "2", "--no-measure"]
    # Epochs of the fine-tunings of the end; those that judge are shorter.
    words += ["--epochs", "1", "--trials", "4" if toy else "16", "--workers", "1" if toy else str(setting.jobs)]
    words += ["--batch", "3" if toy else "8"]
    rows.keep("compress", lambda: {"what": "compression", "total": command(words), **_networks(out)})


def searched(setting: Setting, rows: Rows) -> None:
    """``bsszoo compress resnet18``, codes judged by training, several at a time on the device."""
    data, toy = fashion(setting, rows), setting.toy
    out = setting.work / "search"
    recipe = setting.work / "search.yaml"
    if not recipe.is_file():
        from bsszoo.train.classification.recipe import read_recipe, recipe_text

        sets = sets_of(setting, *([] if toy else ["run.precision=bfloat16", "run.channels_last=true"]))
        sets = [one for one in sets if not one.startswith("model.")]
        recipe.write_text(recipe_text(read_recipe(RECIPE, sets)), encoding="utf-8")
    network, budget = (TOY, "70%") if toy else ("resnet18", "130M")
    words = [sys.executable, "-m", "bsszoo", "compress", network, "--flops", budget, "--data", str(data)]
    words += ["--recipe", str(recipe), "--epochs", "1" if toy else "2", "--subset", "0.25", "--no-measure"]
    words += ["--trials", "2" if toy else "10", "--batch", "2" if toy else "6"]
    words += ["--confirm", "1" if toy else "2", "--workers", "2" if toy else str(setting.jobs), "--out", str(out)]
    rows.keep("search", lambda: {"what": "search by training", "total": command(words), **_networks(out)})


def _networks(out: Path) -> Row:
    """The networks that a run trained at its end, with their test accuracies, and what it says of them."""
    result = read_json(out / "result.json")
    confirmation = result["confirmation"]
    networks = [{name: one[name] for name in ("label", "macs", "tests")} for one in confirmation["networks"]]
    sentence = result.get("recommendation") or " ".join(confirmation["verdicts"])
    return {"networks": networks, "sentence": sentence}


def table(rows: Sequence[Row]) -> list[str]:
    """How long each took, and the test accuracies of the networks of its end."""
    lines = [
        "| run | seconds | network | MACs | test top-1 [%], mean (95%) | trainings |",
        "|---|---:|---|---:|---:|---:|",
    ]
    for row in rows:
        if "networks" not in row:
            lines.append(f"| {row['what']} | {row['total']:.0f} | {row['code']} | | {row['top1']:.2f} | 1 |")
        for number, one in enumerate(row.get("networks", [])):
            run = f"{row['what']} | {row['total']:.0f}" if number == 0 else "|"
            lines.append(
                f"| {run} | {one['label']} | {one['macs']:,} | {mean_95(one['tests'])} | {len(one['tests'])} |"
            )
    return [*lines, *(line for row in rows if "sentence" in row for line in ("", f"{row['what']}: {row['sentence']}"))]


PART = Part(
    "compress",
    "A trained network's compression, and a search by training",
    [Step("compress", compressed, 170, 420), Step("search", searched, 115, 300)],
    table,
)
