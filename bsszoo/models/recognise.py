"""The code of a trained network, read off the names and shapes of its tensors. Loads no torch.

The names are timm's or torchvision's, also behind the prefixes that wrappers put before them (``module.``,
``_orig_mod.``, ``model.``). The code that a family reads off the shapes is checked tensor by tensor by its layer list.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from bsszoo.codes.code import Code
from bsszoo.codes.families import FAMILIES, family_of
from bsszoo.codes.families.base import Shapes
from bsszoo.codes.named import named_entries
from bsszoo.errors import BssZooError, WeightsError
from bsszoo.models.nearest import advice, shapes_of
from bsszoo.models.nearest import nearest as nearest_in_zoo
from bsszoo.texts import one_line

# Prefixes of wrappers: data parallelism, torch.compile, Lightning's and others' modules.
_PREFIXES: Final = ("module.", "_orig_mod.", "model.", "net.", "network.")
_COUNTER: Final = "num_batches_tracked"
# No network of the families has more; a file with more is refused before layers are listed.
_MOST_TENSORS: Final = 100_000


@dataclass(frozen=True, slots=True)
class Recognised:
    """A trained network: its code, its classes (0 without a classifier) and the channels of its input.

    ``others`` are families whose networks have the same tensors and compute something else.
    """

    code: Code
    num_classes: int
    in_chans: int
    others: tuple[str, ...] = ()


def unprefixed(names: Sequence[str]) -> dict[str, str]:
    """Names by their full forms, without the prefixes that all of them share."""
    bare = {name: name for name in names}
    while prefix := next((p for p in _PREFIXES if bare and all(n.startswith(p) for n in bare.values())), None):
        bare = {name: short.removeprefix(prefix) for name, short in bare.items()}
    return bare


def _from_torchvision(shapes: Shapes) -> dict[str, str]:
    """timm's names of tensors by torchvision's or timm's, without prefixes."""
    for family in FAMILIES.values():
        modules = family.from_torchvision(shapes)
        if modules is None:
            continue
        out = {}
        for name in shapes:
            module, _, kind = name.rpartition(".")
            out[name] = modules.get(name) or (f"{modules[module]}.{kind}" if module in modules else name)
        # Squeeze-and-excitation and depths tell EfficientNets apart; both have the same names.
        return out
    return {name: name for name in shapes}


def timm_names(shapes: Shapes) -> dict[str, str]:
    """timm's names of tensors by their names in a file, with any prefixes, of timm or torchvision."""
    bare = unprefixed(list(shapes))
    timms = _from_torchvision({bare[name]: shape for name, shape in shapes.items()})
    return {name: timms[bare[name]] for name in shapes}


def renamed(shapes: Shapes) -> dict[str, Sequence[int]]:
    """The shapes by timm's names, and as timm's tensors have them."""
    names = timm_names(shapes)
    return {names[name]: (shape[0],) if is_scale(name, shape) else shape for name, shape in shapes.items()}


def is_scale(name: str, shape: Sequence[int]) -> bool:
    """Whether a tensor is a layer scale as torchvision shapes it, [c, 1, 1]; timm's is [c]."""
    return name.endswith(".layer_scale") and len(shape) == 3 and tuple(shape[1:]) == (1, 1)


def recognise(shapes: Shapes, label: str, module: Any = None) -> Recognised:
    """The network whose tensors these are, under timm's names (``renamed``).

    Args:
        shapes: The shape of each tensor by its name.
        label: Where they are from, for messages.
        module: The module that has them, if it is built: families whose networks compute something else are left out.

    Raises:
        WeightsError: No network of the families has these tensors; the text says which did not fit the nearest one, or
            which network of the zoo they are most like, and what a family of its own would take. Or those that have
            them compute something else.
    """
    if len(shapes) > _MOST_TENSORS:
        raise WeightsError(f"{label} holds {len(shapes):,} tensors, which no network of bsszoo's families has.")
    nearest: tuple[int, Recognised, list[str]] | None = None
    matches = []
    for family in FAMILIES.values():
        try:
            fields = family.code_of(shapes) if module is None else family.code_of_module(shapes, module)
            if fields is None or sum(fields["depths"]) > len(shapes):
                continue
            code = Code(family.name, **fields)
            one = Recognised(code, *sizes_in(shapes, code))
            wrong = list(_misfits(shapes, one))
        except (BssZooError, ValueError, IndexError, TypeError):
            continue  # shapes from which the family makes an impossible code
        if not wrong:
            matches.append(one)
        elif nearest is None or len(wrong) < nearest[0]:
            nearest = len(wrong), one, wrong
    if module is not None and matches:
        same = [one for one in matches if family_of(one.code.family).runs_as(module)]
        if not same:
            raise WeightsError(
                f"{label} has the tensors of {matches[0].code} and computes something else: it pads as TensorFlow "
                "does, it smooths what it subsamples, its normalisations have another epsilon, or it pools or "
                "activates otherwise. Its code's network would give other outputs."
            )
        matches = same
    if matches:
        # Families may have the same tensors, as EfficientNets of different sizes: the one with the nearest published
        # network decides.
        best = max(matches, key=lambda one: _nearness(one.code)[0])  # the first one of equal ones
        usual = family_of(best.code.family).beside_tensors
        others = [one.code.family for one in matches if family_of(one.code.family).beside_tensors != usual]
        sized = family_of(best.code.family).sized
        size = best.code.image_size if sized else _nearness(best.code)[1]
        return replace(best, code=replace(best.code, image_size=size), others=tuple(dict.fromkeys(others)))
    if nearest is None:
        first = ", ".join(one_line(name, 60) for name in list(shapes)[:3])
        near = nearest_in_zoo(shapes)
        raise WeightsError(
            f"{label} holds no network that bsszoo recognises: its {len(shapes):,} tensors "
            f"({first}, ..) are not named, or not shaped, as those of its families in timm and torchvision. "
            + (f"The nearest network of the zoo is {near}. " if near is not None else "")
            + f"Where it is of a family under other names, convert these. {advice(shapes)}"
        )
    count, one, wrong = nearest
    more = f", and {count - 3:,} more" if count > 3 else ""
    raise WeightsError(
        f"{label} holds no network that bsszoo recognises. It is nearest to {one.code}, which "
        f"{count:,} of its tensors do not fit: {'; '.join(wrong[:3])}{more}. {advice(shapes)}"
    )


def _nearness(code: Code) -> tuple[int, int]:
    """How near a published network of its family is to a code read off shapes, and the input size to take [px].

    The number of equal fixed parts, more for the same network. Where no tensor has the size of the input, it is that of
    the published network where all of these parts are equal, else the family's default.
    """

    def parts(one: Code) -> tuple[int, ...]:
        return one.stem_width, one.stage2_width, one.stage2_depth, one.head_width

    mine, best = parts(code), (0, code.image_size)
    for entry in named_entries().values():
        theirs = entry.code
        if theirs.family == code.family:
            equal = sum(a == b for a, b in zip(mine, parts(theirs), strict=True))
            whole = equal == len(mine)
            near = equal + (whole and theirs.entries == code.entries)
            if near > best[0]:
                best = near, theirs.image_size if whole else code.image_size
    return best


def sizes_in(shapes: Shapes, code: Code) -> tuple[int, int]:
    """The classes and input channels of a code's network, from its tensors; 0 for a layer that is not there."""
    family = family_of(code.family)
    head, stem = shapes.get(f"{family.classifier}.weight"), shapes.get(f"{family.first_conv}.weight")
    return int(head[0]) if head else 0, int(stem[1]) if stem is not None and len(stem) == 4 else 0


def _misfits(shapes: Shapes, network: Recognised) -> Iterator[str]:
    """Messages about tensors that differ from the network's: other shapes, missing and further ones."""
    wanted = shapes_of(network.code, network.num_classes, network.in_chans or 3)
    for name, shape in wanted.items():
        have = shapes.get(name)
        if have is None:
            yield f"{name} {list(shape)} is missing"
        elif tuple(have) != shape:
            yield f"{name} is {list(have)}, and {list(shape)} there"
    for name in shapes:
        if name not in wanted and not name.endswith(_COUNTER):
            yield f"{one_line(name, 80)} {list(shapes[name])} is none of it"
