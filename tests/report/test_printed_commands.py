"""The commands that a report prints do what they say."""

from __future__ import annotations

import ast
import re
import shlex

import pytest
from hypothesis import given
from report.finished_run import original
from strategies import VITS, codes

from bsszoo.codes import FAMILIES, Code
from bsszoo.report.commands import Command, commands
from bsszoo.train.classification.paper import recipe_of


def arguments(command: Command) -> list[str]:
    return shlex.split(command.text.replace("\\\n", " "))


@given(codes().filter(lambda code: code.image_size >= 8))
def test_every_command_carries_the_code(code: Code) -> None:
    build, with_timm, train = commands(code)
    for snippet in (build, with_timm):
        call = ast.parse(snippet.text).body[-1].value
        texts = [n.value for n in ast.walk(call) if isinstance(n, ast.Constant)]
        assert Code.parse(texts[-1]) == code
    words = arguments(train)
    assert words[:2] == ["bsszoo", "train"]
    recipe = recipe_of(words[2])
    assert Code.parse(recipe.model.name) == code
    assert recipe.data.image_size == code.image_size


#: The families of the paper, whose settings are its own.
PAPER = ("resnet18", "resnet50", "mobilenetv2", "efficientnet_b0", "efficientnet_b1")


#: Epochs of warm-up, least rate, mixup, cutmix, erasing, moving average and batch of the families with AdamW.
#: ConvNeXt's: the defaults of main.py in its authors' repository, and of its command for ConvNeXt-T. MobileNetV4's:
#: imagenet_mobilenetv4_conv_*_tpu.yaml of TensorFlow's models. ViTs': DeiT's Table 9, with the warm-up and the least
#: rate of its repository's main.py.
PUBLISHED: dict[str, tuple[object, ...]] = {
    "convnext": (20, 1e-6, 0.8, 1.0, 0.25, 0.9999, 4096),
    "mobilenetv4_conv_small": (5, 0, 0, 0, 0, 0.9999, 4096),
    "mobilenetv4_conv_medium": (5, 0, 0, 0, 0, None, 4096),
    "mobilenetv4_conv_large": (20, 0, 0.8, 1.0, 0, None, 16384),
    "vit": (5, 1e-5, 0.8, 1.0, 0.25, None, 1024),
    "deit": (5, 1e-5, 0.8, 1.0, 0.25, None, 1024),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_training_has_the_settings_of_table_1(family: str) -> None:
    row, recipe = FAMILIES[family].training, recipe_of(arguments(commands(original(family))[2])[2])
    optim = recipe.optim
    assert (optim.weight_decay, optim.lr, recipe.schedule.epochs) == (row.weight_decay, row.lr, row.epochs)
    assert recipe.augment.auto_augment == ("original" if row.autoaugment else row.policy)
    published = next((row for begin, row in PUBLISHED.items() if family.startswith(begin)), (5, 0, 0, 0, 0, None, 1024))
    how = "adamw" if family.startswith(tuple(PUBLISHED)) else "sgd"
    assert (optim.batch_size, optim.name, recipe.schedule.name) == (published[-1], how, "cosine")
    others = (recipe.schedule.warmup_epochs, recipe.schedule.min_lr, recipe.augment.mixup, recipe.augment.cutmix)
    assert (*others, recipe.augment.erase, recipe.ema.decay, optim.lr_batch_size) == published
    if family in VITS:
        # 5e-4 at a batch of 512, in proportion to it; the warm-up begins at 1e-6.
        assert (optim.lr, optim.weight_decay, recipe.model.drop_path_rate) == (5e-4 * 1024 / 512, 0.05, 0.1)
        assert recipe.schedule.warmup_from * optim.lr == pytest.approx(1e-6)
    assert recipe.loss.label_smoothing == row.label_smoothing
    assert family not in PAPER or row.label_smoothing == 0.1


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
