"""The commands that a report prints do what they say."""

from __future__ import annotations

import argparse
import ast
import re
import shlex

import pytest
from hypothesis import given
from report.finished_run import original
from strategies import codes

from bsszoo.codes import FAMILIES, Code
from bsszoo.report.commands import Command, commands


def arguments(command: Command) -> list[str]:
    return shlex.split(command.text.replace("\\\n", " "))


@given(codes())
def test_every_command_carries_the_code(code: Code) -> None:
    build, with_timm, train = commands(code)
    for snippet in (build, with_timm):
        call = ast.parse(snippet.text).body[-1].value
        texts = [n.value for n in ast.walk(call) if isinstance(n, ast.Constant)]
        assert Code.parse(texts[-1]) == code
    words = arguments(train)
    given_code = words[words.index("--model-kwargs") + 1]
    assert Code.parse(given_code.removeprefix("code=")) == code
    assert words[words.index("--img-size") + 1] == str(code.image_size)


@given(codes())
def test_timm_reads_the_code_as_text(code: Code) -> None:
    """timm's ParseKwargs takes what is a Python literal for that literal; a code must not be one."""
    with pytest.raises((ValueError, SyntaxError)):
        ast.literal_eval(str(code))


@pytest.mark.parametrize(
    ("family", "decay", "lr", "epochs", "augment"),
    [
        ("resnet18", "4e-5", "0.4", "120", None),
        ("resnet50", "1e-4", "0.7", "120", None),
        ("mobilenetv2", "2e-5", "0.7", "120", None),
        ("efficientnet_b0", "2e-5", "0.7", "350", "original"),
        ("efficientnet_b1", "2e-5", "0.7", "350", "original"),
    ],
)
def test_training_has_the_settings_of_table_1(
    family: str, decay: str, lr: str, epochs: str, augment: str | None
) -> None:
    words = arguments(commands(original(family))[2])
    assert words[:2] == ["python", "-c"]
    ast.parse(words[2])
    parser = argparse.ArgumentParser()
    for option in ("data-dir", "model", "model-kwargs", "img-size", "batch-size", "grad-accum-steps", "opt", "momentum",
                   "weight-decay", "sched", "lr", "epochs", "warmup-epochs", "smoothing", "aa"):
        parser.add_argument(f"--{option}")
    given_options = parser.parse_args(words[3:])
    assert (given_options.weight_decay, given_options.lr, given_options.epochs) == (decay, lr, epochs)
    assert given_options.aa == augment
    assert int(given_options.batch_size) * int(given_options.grad_accum_steps) == 1024
    assert (given_options.opt, given_options.sched, given_options.smoothing) == ("sgd", "cosine", "0.1")


def test_every_family_has_commands() -> None:
    for family in FAMILIES:
        kinds = [(c.language, bool(c.title)) for c in commands(original(family))]
        assert kinds == [("python", True), ("python", True), ("shell", True)]


def test_the_model_is_the_one_that_nets_registers() -> None:
    timm = pytest.importorskip("timm")
    pytest.importorskip("bsszoo.nets")
    import bsszoo.nets  # noqa: F401

    names = {re.search(r'create_model\("(\w+)"', commands(original("resnet18"))[1].text)}
    assert all(match and timm.is_model(match.group(1)) for match in names)
