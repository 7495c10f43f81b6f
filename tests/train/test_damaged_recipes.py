"""A recipe that is wrong in any way is an error that names it; one that is right begins to train."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from train.small import TEXT

from bsszoo.errors import BssZooError, RecipeError
from bsszoo.train.classification.recipe import Recipe, read_recipe, recipe_text
from bsszoo.train.detection.paper import any_recipe_of
from bsszoo.train.loop import train
from bsszoo.train.strict import load_mapping, read_tree

ROOT = Path(__file__).parents[2]
# Values that stand where another one should: of every kind, out of every range, and as no YAML that people write.
WRONG: tuple[Any, ...] = (
    None,
    True,
    False,
    "",
    " ",
    "x",
    "x" * 5000,
    "1e400",
    "nan",
    "inf",
    "-1",
    "\x1b[2J",
    "a: b",
    "!!python/none",
    0,
    1,
    -1,
    2,
    3,
    7,
    10**6,
    10**18,
    10**30,
    0.0,
    0.5,
    -0.5,
    1.5,
    1e-300,
    1e300,
    float("inf"),
    float("-inf"),
    float("nan"),
    [],
    [0],
    [1, 2, 3],
    [[1]],
    ["a", None],
    [0.5] * 300,
    {},
    {"a": 1},
    {1: 2},
    {"name": "resnet18"},
    "resnet18",
    "resnet18_c8-8-8-8_l1-1-1-1",
    "local-dir:nowhere",
    "hf-hub:a/../b",
    "synthetic/0",
    "synthetic/x",
    "wds/x",
    "torch/x",
    "hfds/",
    "tfds/x",
    "folder",
    "sgd",
    "adamw",
    "poly",
    "rand-m9",
    "original",
    "augmix-m3",
    "bicubic",
    "float16",
    "{split}",
)


def positions(tree: Any, where: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values of a tree."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [where] + [p for key, value in inner for p in positions(value, (*where, key))]


def mutated(tree: Any, rng: random.Random) -> Any:
    """A tree in which one to three values are others, are gone, or stand under another key."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 2, 3))):
        where = rng.choice(positions(tree))
        if not where:
            continue
        holder = tree
        for key in where[:-1]:
            holder = holder[key]
        kind = rng.random()
        if kind < 0.75:
            old = holder[where[-1]]
            alike = [v for v in WRONG if kind < 0.5 and (old is None or kind_of(v) == kind_of(old))] or WRONG
            holder[where[-1]] = copy.deepcopy(rng.choice(alike))
        elif kind < 0.88 or isinstance(holder, list):
            del holder[where[-1]]
        else:
            holder[rng.choice(("nam", "", 3, None, "lr", "\x00"))] = holder.pop(where[-1])
    return tree


def kind_of(value: Any) -> type:
    return float if isinstance(value, int) and not isinstance(value, bool) else type(value)


def whole_tree() -> dict[str, Any]:
    """Every key of a small recipe."""
    return load_mapping(recipe_text(small()), "it")


def small() -> Recipe:
    text = (
        TEXT.replace("synthetic/256", "synthetic/16")
        .replace("batch_size: 32", "batch_size: 8")
        .replace("epochs: 2, warmup_epochs: 0.5", "epochs: 1")
        .replace("device_batch: 16", "device_batch: 8")
    )
    return read_tree(Recipe, load_mapping(text, "it"))


@pytest.mark.parametrize("seed", range(200))
def test_a_changed_recipe_is_read_or_named(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    file = tmp_path / "r.yaml"
    file.write_text(yaml.safe_dump(mutated(whole_tree(), rng), allow_unicode=True), encoding="utf-8")
    try:
        recipe = read_recipe(file)
    except RecipeError as error:
        assert len(str(error)) < 2000  # noqa: PT017 - both ends are right
        return
    assert load_mapping(recipe_text(recipe), "it")


@pytest.mark.parametrize("seed", range(80))
def test_the_text_of_a_recipe_may_be_damaged_anywhere(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    source = rng.choice(sorted(ROOT.glob("recipes/*/*.yaml")))
    data = bytearray(source.read_bytes())
    for _ in range(rng.choice((1, 2, 8))):
        index = rng.randrange(len(data))
        data[index : index + rng.choice((0, 1, 1, 40))] = rng.choice(
            (b"", b"\0", b"\xff", b"*a", b"&a ", b"[", b"{", b"- ", b"\t", b": ", b"!!int ", b"<<: *x", b"9" * 5000)
        )
    file = tmp_path / "r.yaml"
    file.write_bytes(bytes(data))
    try:
        any_recipe_of(str(file), [])
    except BssZooError as error:
        assert len(str(error)) < 2000  # noqa: PT017 - both ends are right


@pytest.mark.parametrize("seed", range(60))
def test_a_recipe_that_is_taken_trains_or_says_why_not(tmp_path: Path, seed: int) -> None:
    rng = random.Random(1000 + seed)
    tree = mutated(whole_tree(), rng)
    file = tmp_path / "r.yaml"
    file.write_text(yaml.safe_dump(tree), encoding="utf-8")
    # What would only take long is no matter of this test.
    bounds = [
        f"{key}={value}"
        for key, value, most in (
            ("schedule.epochs", 1, 2),
            ("data.image_size", 32, 64),
            ("model.num_classes", 4, 1000),
            ("run.workers", 0, 0),
            ("optim.batch_size", 8, 16),
        )
        if large(tree, key, most)
    ]
    try:
        recipe = read_recipe(file, bounds)
    except BssZooError:
        return
    if recipe.data.dataset.startswith("synthetic") and len(recipe.data.dataset) > len("synthetic/99"):
        return
    if recipe.run.compile or recipe.model.name != small().model.name:
        return
    try:
        train(recipe, None, tmp_path / "out", device="cpu")
    except BssZooError as error:
        assert len(str(error)) < 4000  # noqa: PT017 - both ends are right


def large(tree: Any, key: str, most: float) -> bool:
    value: Any = tree
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return isinstance(value, int) and not isinstance(value, bool) and value > most


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"b{i}: &b{i} [{','.join(['*a' if i == 0 else f'*b{i - 1}'] * 9)}]\n" for i in range(9)),
        "model: " + "[" * 100_000,
        "model: &m {name: *m}",
        "model: {name: " + "9" * 6000 + "}",
    ],
)
def test_a_bomb_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError, match=r"r\.yaml is no YAML file"):
        read_recipe(file)
