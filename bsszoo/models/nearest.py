"""What a network of no family is nearest to, and what a family of its own would take. Loads no torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Final, Literal

from bsszoo.codes.code import Code, layers_of
from bsszoo.codes.families import family_of
from bsszoo.codes.families.base import Shapes
from bsszoo.codes.named import named_entries
from bsszoo.texts import one_line

#: Where it is said how a family is made.
DOCUMENT: Final = "docs/own-family.md"
# Agreement below which a network is near to none.
_LEAST_NAMES, _LEAST_KINDS = 0.4, 0.3
_COUNTER: Final = "num_batches_tracked"
_NUMBER: Final = re.compile(r"\d+")
# In the names of linear layers that mix positions.
_ATTENTION: Final = re.compile(r"attn|attention|qkv|token")


@dataclass(frozen=True, slots=True)
class Near:
    """The network of the zoo that others' tensors are most like.

    ``share`` is how far the tensors of both agree, by ``names``, with numbers left out, and dimensions; or by ``kinds``
    of their convolutions: the sides of the kernel, and whether they are depthwise, or write fewer, as many or more
    channels than each reads. It is the sum, over all names or kinds, of the smaller one of both shares, so that it does
    not depend on depths. ``unlike`` are the first tensors whose names are not there.
    """

    name: str
    family: str
    share: float
    by: Literal["names", "kinds"]
    unlike: tuple[str, ...] = ()

    def __str__(self) -> str:
        what = "names and dimensions of tensors" if self.by == "names" else "kinds of convolutions"
        others = f" (not {', '.join(one_line(name, 60) for name in self.unlike)}, ..)" if self.unlike else ""
        return f"{self.name}, of the family {self.family}: their {what} agree by {self.share:.0%}{others}"


def nearest(shapes: Shapes) -> Near | None:
    """The network of the zoo nearest to tensors under timm's names: by their names, else by kinds; None if none is."""
    names, kinds = _names(shapes), _kinds(shapes)
    shares = {
        name: (_agreement(names, its_names), _agreement(kinds, its_kinds))
        for name, (its_names, its_kinds) in _of_the_zoo().items()
    }

    def family(name: str) -> str:
        return named_entries()[name].code.family

    # Networks of groups, or of other inner widths, have the same names.
    named = max(shares, key=lambda name: sum(shares[name]))
    if shares[named][0] >= _LEAST_NAMES:
        theirs = _of_the_zoo()[named][0]
        unlike = (name for name, shape in shapes.items() if not _names({name: shape}).keys() <= theirs.keys())
        return Near(named, family(named), shares[named][0], "names", tuple(islice(unlike, 2)))
    alike = max(shares, key=lambda name: shares[name][1])
    return Near(alike, family(alike), shares[alike][1], "kinds") if shares[alike][1] >= _LEAST_KINDS else None


def obstacles(shapes: Shapes) -> list[str]:
    """What a network has that no family can describe yet, in words."""
    found: list[tuple[str, list[str]]] = []
    zoo = [names.keys() for names, _ in _of_the_zoo().values()]
    weights = {name: shape for name, shape in shapes.items() if name.endswith("weight")}
    convolutions = [name for name, shape in weights.items() if len(shape) == 4]
    norms = [
        name
        for name, shape in weights.items()
        if len(shape) == 1 and f"{name.removesuffix('weight')}running_mean" not in shapes
    ]
    bare = sum(f"{name.removesuffix('weight')}bias" not in shapes for name in convolutions)
    if bare > sum(name.endswith("running_mean") for name in shapes):
        found.append(("normalisation other than batch normalisation behind convolutions without a bias", norms))
    blocks = {_block_of(name) for name in convolutions} - {""}
    linear = [name for name, shape in weights.items() if len(shape) == 2]
    apart = [name for name in linear if _block_of(name) not in blocks or _ATTENTION.search(name)]
    # Those of a ViT's blocks are in its layer list.
    apart = [name for name in apart if not (_block_of(name) and any(_names({name: (1, 1)}).keys() <= of for of in zoo))]
    if len(apart) > 1:  # one is the classifier
        found.append(("attention, or linear layers outside blocks of convolutions", apart))
    odd = [
        name for name, shape in weights.items() if len(shape) in (3, 5) or (len(shape) == 4 and len(set(shape[2:])) > 1)
    ]
    found.append(("convolutions that are not square and two-dimensional", odd))
    return [f"{words} ({one_line(names[0], 60)}, ..)" for words, names in found if names]


def advice(shapes: Shapes) -> str:
    """The sentences about a network of no family: how it may become one, or why it cannot yet."""
    lacking = obstacles(shapes)
    if lacking:
        return (
            f"A family of its own ({DOCUMENT}) cannot describe it yet: it has {' and '.join(lacking)}, and a family is "
            "made of square convolutions, with batch normalisation or a bias, of linear layers on each pixel, and of "
            "attention as a plain ViT has it."
        )
    return (
        f"Where it is stages of like blocks, a family of its own is one file and an entry point: {DOCUMENT} has an "
        "example and says what it takes (the layers of its blocks in the order of the forward, its builder, the ranges "
        "of its codes)."
    )


def shapes_of(code: Code, num_classes: int, in_chans: int) -> Mapping[str, tuple[int, ...]]:
    """The shapes of the tensors of a code's network by timm's names, without counters; 0 classes: no classifier."""
    out: dict[str, tuple[int, ...]] = {}
    for layer in layers_of(code, num_classes=max(num_classes, 1), in_chans=in_chans):
        if layer.role == "classifier":
            if num_classes:
                out |= {
                    f"{layer.name}.weight": (layer.out_width, layer.in_width),
                    f"{layer.name}.bias": (layer.out_width,),
                }
            continue
        out |= {vector.name: vector.shape for vector in layer.vectors}
        if layer.role == "norm":
            continue
        shape = (layer.out_width, layer.group_width, layer.kernel, layer.kernel)
        out[f"{layer.name}.weight"] = shape[:2] if layer.flat else shape
        if layer.bias:
            out[f"{layer.name}.bias"] = (layer.out_width,)
        if layer.norm:
            out |= {
                f"{layer.norm}.{kind}": (layer.out_width,) for kind in ("weight", "bias", "running_mean", "running_var")
            }
    return out


@cache
def _of_the_zoo() -> Mapping[str, tuple[Counter[object], Counter[object]]]:
    """The names and kinds of each network of the zoo that is not a searched one, originals first."""
    out = {}
    for name, entry in named_entries().items():
        if entry.timm is not None or entry.code.entries == family_of(entry.code.family).original:
            shapes = shapes_of(entry.code, 1000, 3)
            out[name] = _names(shapes), _kinds(shapes)
    return out


def _block_of(name: str) -> str:
    """The module path of the innermost numbered block that a layer is inside, by its tensor's; empty for none."""
    parts = name.split(".")[:-2]
    while parts and not parts[-1].isdigit():
        parts.pop()
    return ".".join(parts)


def _names(shapes: Shapes) -> Counter[object]:
    return Counter(
        (_NUMBER.sub("#", name), len(shape)) for name, shape in shapes.items() if not name.endswith(_COUNTER)
    )


def _kinds(shapes: Shapes) -> Counter[object]:
    return Counter(_kind(shape) for shape in _convolutions(shapes))


def _convolutions(shapes: Shapes) -> Iterator[Sequence[int]]:
    return (shape for name, shape in shapes.items() if len(shape) == 4 and name.endswith("weight"))


def _kind(shape: Sequence[int]) -> object:
    out, read, *sides = shape
    return (*sides, "depthwise" if read == 1 else (out > read) - (out < read))


def _agreement(one: Counter[object], other: Counter[object]) -> float:
    """The sum of the smaller one of both shares of each."""
    a, b = max(1, one.total()), max(1, other.total())
    return sum(min(one[key] / a, other[key] / b) for key in one)
