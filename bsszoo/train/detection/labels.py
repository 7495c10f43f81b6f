"""Which output of a detector stands for which category of the data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from bsszoo.codes.detector import Kind
from bsszoo.errors import DataError, RecipeError
from bsszoo.texts import one_line

#: The name of an output that stands for no category: Mask R-CNN's first, and the gaps between COCO's ids.
NOTHING: Final = "-"
# Outputs by ids beyond it would be nearly all of nothing.
_LARGEST_ID: Final = 10_000


@dataclass(frozen=True)
class Labels:
    """The categories of a detector: ``ids[label]`` is the category's id, None for an output that stands for none.

    Example:
        >>> labels = labels_of("maskrcnn", [(3, "car"), (7, "train")], "order", None)
        >>> labels.ids, labels.names
        ((None, 3, 7), ('-', 'car', 'train'))
        >>> labels.label(7)
        2
    """

    ids: tuple[int | None, ...]
    names: tuple[str, ...]
    _label_of: dict[int, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_label_of", {i: label for label, i in enumerate(self.ids) if i is not None})

    @property
    def classes(self) -> int:
        """Outputs of the network's classifiers."""
        return len(self.ids)

    def label(self, category: int) -> int:
        """The output that stands for a category."""
        return self._label_of[category]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values, which ``from_dict`` takes."""
        return {"ids": list(self.ids), "names": list(self.names)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Labels:
        """Labels as they were written."""
        return cls(tuple(data["ids"]), tuple(data["names"]))


def labels_of(
    kind: Kind, categories: Sequence[tuple[int, str]], label_by: Literal["order", "id"] | str, num_classes: int | None
) -> Labels:
    """The labels of a detector for some categories.

    Args:
        kind: Mask R-CNN's output 0 is the background; RetinaNet has none.
        categories: (id, name) in the order of their ids.
        label_by: ``order``: one output after the other; ``id``: the output with the category's id as its index.
        num_classes: Outputs; None for as many as are needed.

    Raises:
        RecipeError: Too few outputs; or an output would stand for two things.
    """
    first = 1 if kind == "maskrcnn" else 0
    if label_by == "id":
        if categories[0][0] < first:
            raise RecipeError(
                f"data.label_by is id, and the category {categories[0][1]!r} has the id "
                f"{categories[0][0]}, which is Mask R-CNN's output for the background. Set it to order."
            )
        outputs = [i for i, _ in categories]
        if outputs[-1] > _LARGEST_ID:
            raise RecipeError(
                f"data.label_by is id, and the category {one_line(categories[-1][1])!r} has the id "
                f"{outputs[-1]}: more than {_LARGEST_ID:,} outputs are not made. Set it to order."
            )
    else:
        outputs = list(range(first, first + len(categories)))
    needed = outputs[-1] + 1
    wanted = needed if num_classes is None else num_classes
    if wanted < needed:
        background = " and the background" if first else ""
        raise RecipeError(
            f"model.num_classes is {wanted}, and the data's {len(categories)} categories{background} "
            f"need {needed} outputs. Set it to {needed}, or to null."
        )
    ids: list[int | None] = [None] * wanted
    names = [NOTHING] * wanted
    for output, (number, name) in zip(outputs, categories, strict=True):
        ids[output], names[output] = number, name
    return Labels(tuple(ids), tuple(names))


def labels_for(labels: Labels, categories: Sequence[tuple[int, str]], what: str) -> tuple[Labels, tuple[str, ...]]:
    """The same outputs with the ids that some data give to their names, and notes on what differs.

    Categories are the same where their names are: ids differ from file to file. Outputs whose names the data lack
    stand for nothing there.

    Args:
        labels: The network's.
        categories: The data's (id, name).
        what: The name of the data in messages.

    Raises:
        DataError: A category that the network was not trained with; or a name of several categories, under other ids.
    """
    trained = [(i, name) for i, name in zip(labels.ids, labels.names, strict=True) if i is not None]
    for side, where in ((trained, "The network"), (categories, what)):
        twice = [name for name, n in Counter(name for _, name in side).items() if n > 1]
        if twice and not set(categories) <= set(trained):
            raise DataError(
                f"{where} has several categories with the name {one_line(repr(twice[0]))}: which is which "
                "cannot be trained_names. Give the data that it was trained for, or distinct names."
            )
        if twice:
            return labels, ()
    trained_names = {name for _, name in trained}
    strange = [(i, name) for i, name in categories if name not in trained_names]
    if strange:
        i, name = strange[0]
        names = ", ".join(one_line(n, 40) for n in sorted(trained_names)[:20]) + (
            ", .." if len(trained_names) > 20 else ""
        )
        raise DataError(
            f"{what} has the category {one_line(repr(name))} (id {i}), which the network was not trained "
            f"with. Its categories are {names}. Give such data, or rename the category in the file."
        )
    theirs = {name: i for i, name in categories}
    made = Labels(
        tuple(None if i is None else theirs.get(name) for i, name in zip(labels.ids, labels.names, strict=True)),
        labels.names,
    )
    lost = [name for _, name in trained if name not in theirs]
    notes = (
        [
            f"{what} lacks {len(lost)} of the network's categories ({one_line(', '.join(lost), 100)}): they are not "
            "measured"
        ]
        if lost
        else []
    )
    if any(i != theirs[name] for i, name in trained if name in theirs):
        notes.append(f"{what} gives its categories other ids than the training's data; they are taken by their names")
    return made, tuple(notes)
