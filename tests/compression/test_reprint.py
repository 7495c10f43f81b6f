"""A command that is asked again after its end: the same text at once, from files, unless anything has changed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import bsszoo
from bsszoo.cli.main import app
from bsszoo.compression.folder import write_result
from bsszoo.compression.reprint import Command
from bsszoo.compression.result import CompressResult
from bsszoo.study.result import Confirmation, ConfirmedRow, Finished, Quantised, QuantisedRow, TrainingFacts

CODE = "resnet18_c16-32-64-64_l1-1-1-1_px32"
FEW: dict[str, Any] = {"flops": "60%", "trials": 6, "batch": 3, "measure": False}
WORDS = ["compress", CODE, "--flops", "60%", "--trials", "6", "--batch", "3", "--no-measure"]
SAYS = "Finished before, and nothing has changed since"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


def judges(name: str, body: str) -> Path:
    file = Path(f"{name}.py")
    file.write_text(f"def judge(code, trial):\n{body}")
    return file


def run(*words: str) -> Any:
    done = CliRunner().invoke(app, [*WORDS, *words])
    assert done.exit_code == 0, done.output
    return done


def test_the_same_command_prints_the_same_and_loads_no_torch() -> None:
    code = f"import sys; from bsszoo.cli.main import app; sys.argv = {['bsszoo', *WORDS]!r}\n"
    code += "try: app()\nfinally: print('torch' in sys.modules, file=sys.stderr)"
    first, second = (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)
    )
    assert second.stdout == first.stdout
    assert SAYS not in first.stderr
    assert SAYS in second.stderr
    assert second.stderr.endswith("False\n")


@pytest.mark.parametrize("words", [(), ("--out", "run"), ("--seed", "3", "--out", "run")])
def test_only_the_same_options_are_the_same_command(words: tuple[str, ...]) -> None:
    run(*words)
    assert SAYS in run(*words).output
    assert json.loads(run(*words, "--json").stdout)["seed"] == (3 if "3" in words else 0)
    assert SAYS not in CliRunner().invoke(app, [*WORDS, *words, "--slack", "0.2"]).output


def test_a_result_of_a_function_is_read_back_whole() -> None:
    judges(
        "rungs",
        "    trial.report(1.0 * code.depths[0], 0)\n"
        "    if trial.should_stop():\n        return 0.5\n"
        "    if sum(code.widths) % 3 == 0:\n        raise ValueError('not,\\nthis \"one\"')\n"
        "    return 0.1 * sum(code.widths)\n",
    )
    options = {**FEW, "evaluator": "rungs:judge", "trials": 12, "out": "run"}
    command = Command(CODE, options)
    assert command.result() is None
    result = bsszoo.compress(CODE, **options)
    assert {trial.state for trial in result.trials} == {"complete", "failed", "pruned"}
    command.ended(result)
    again = Command(CODE, options).result()
    assert again is not None
    assert replace(again, seconds=result.seconds) == result


def test_a_result_with_everything_is_read_back_whole(tmp_path: Path) -> None:
    whole = bsszoo.compress(CODE, **FEW, out="run")
    rows = whole.networks
    other = bsszoo.Code.parse("resnet18_c16-24-64-64_l1-1-1-1_px32")
    confirmed = [ConfirmedRow(r.label, r.role, r.code, r.cost, (90.0, 91.5), 84.1, 96.9, (89.0,), (0, 2)) for r in rows]
    confirmed.append(ConfirmedRow("random 1", "random", other, bsszoo.cost(other), (80.0,), numbers=(0,)))
    changes = {
        "confirmation": Confirmation("top-1", tuple(confirmed), ("It is better.",), ("One failed.",)),
        "quantised": Quantised(
            "int8",
            "by hand",
            5,
            "top-1",
            (QuantisedRow("uniform", rows[1].code, "abc", 1, 100, 90.0, 89.0, 2, 1, 1000, 300, 1.5, 1.0),),
            "a clock",
        ),
        "training": TrainingFacts("run", "training_recipe.yaml", "pictures", 10, 3),
        "finished": Finished(
            folder="finish_x",
            code=str(rows[2].code),
            top1=91.0,
            top5=99.0,
            images=100,
            measured_on="val",
            epochs=3,
            inherited="a.pth",
            teacher=None,
        ),
        "runtime": "onnxruntime",
        "train": None,
    }
    result = replace(whole, **changes)
    write_result(tmp_path / "run", result)
    command = Command(CODE, {**FEW, "out": "run"})
    command.ended(result)
    assert command.result() == result


def test_a_detectors_result_is_read_back_whole() -> None:
    name = "retinanet_fpn16_resnet18_c16-32-64-64_l2-2-2-2"
    options = {**FEW, "flops": "80%", "trials": 3, "out": "run"}
    result = bsszoo.compress(name, **options)
    command = Command(name, options)
    command.ended(result)
    again = command.result()
    assert again is not None
    assert replace(again, seconds=result.seconds) == result
    assert again.name_of(result.best.code).startswith("retinanet")


def add_trial(folder: Path) -> None:
    with (folder / "trials.csv").open("a") as file:
        file.write("\n")


CHANGES: dict[str, Callable[[], object]] = {
    "the evaluator's file": lambda: judges("mine", "    return 2.0 * sum(code.widths)\n"),
    "the results": lambda: add_trial(Path("run")),
    "the page is gone": lambda: Path("run/report.html").unlink(),
    "a network was delivered": lambda: (Path("run/recommended").mkdir(), Path("run/recommended/config.json").touch()),
    "the record is damaged": lambda: Path("run/finished.json").write_text('{"command": ['),
    "the record is a list": lambda: Path("run/finished.json").write_text("[]"),
    "another version made it": lambda: other_version(),
    "a picture came": lambda: Path("pictures/train/cat/2.png").touch(),
    "a class came": lambda: Path("pictures/train/cow").mkdir(),
    "the table of labels changed": lambda: Path("pictures/labels.json").write_text("{ }"),
}


def other_version() -> None:
    record = json.loads(Path("run/finished.json").read_text())
    Path("run/finished.json").write_text(json.dumps(record | {"versions": record["versions"] | {"torch": "2.0.0"}}))


JUDGED: dict[str, Any] = {**FEW, "evaluator": "mine:judge", "out": "run"}


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CompressResult]:
    """A folder with a run by an evaluator's file, and its result; tests only read it."""
    here = tmp_path_factory.mktemp("judged")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.syspath_prepend(here)
        judges("mine", "    return 1.0 * sum(code.widths)\n")
        result = bsszoo.compress(CODE, **JUDGED)
        sys.modules.pop("mine", None)
    return here, result


@pytest.fixture
def ended(judged: tuple[Path, CompressResult]) -> Callable[[], CompressResult | None]:
    """Asks again for the result of a command that has ended, of an evaluator's file and a folder of images."""
    here, result = judged
    shutil.copytree(here, Path.cwd(), dirs_exist_ok=True)
    for kind in ("cat", "dog"):
        Path(f"pictures/train/{kind}").mkdir(parents=True)
        Path(f"pictures/train/{kind}/1.png").touch()
    Path("pictures/labels.json").write_text("{}")
    given = {**JUDGED, "data": "pictures"}
    Command(CODE, given).ended(result)
    return lambda: Command(CODE, given).result()


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_changed_goes_the_long_way(what: str, ended: Callable[[], CompressResult | None]) -> None:
    assert ended() is not None
    CHANGES[what]()
    assert ended() is None


@pytest.mark.parametrize(
    ("network", "options"),
    [
        ("hf-hub:org/net", {}),
        ("resnet50.a1_in1k", {}),
        (CODE, {"teacher": "hf-hub:org/net"}),
        (CODE, {"dataset": "hfds/org/pictures"}),
        (CODE, {"study": "shared", "storage": "sqlite:///x.db"}),
        (CODE, {"ray": "auto"}),
        (CODE, {"evaluator": "somewhere.installed:judge"}),
    ],
)
def test_what_others_may_change_is_never_told_from_files(
    network: str, options: dict[str, Any], judged: tuple[Path, CompressResult]
) -> None:
    here, result = judged
    shutil.copytree(here, Path.cwd(), dirs_exist_ok=True)
    command = Command(network, {**FEW, "out": "run", **options})
    command.ended(result)
    assert not Path("run/finished.json").exists()
    assert command.result() is None


def test_texts_that_are_no_paths_are_options_as_others() -> None:
    for text in ("x" * 5000, "a\0b"):
        assert Command(CODE, {**FEW, "depth_cap": text}).result() is None
        assert Command(text, FEW).result() is None
