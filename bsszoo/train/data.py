"""The pictures of a recipe: timm's and torchvision's data sets, opened and checked before the first update."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from bsszoo.errors import DataError
from bsszoo.train.idx_files import FASHION_MNIST, unpacked
from bsszoo.train.seeds import mixed

if TYPE_CHECKING:
    from torch.utils.data import IterableDataset

    from bsszoo.train.recipe import DataPart

#: Pictures of ``synthetic``, for training and for validation, where the name gives no number.
SYNTHETIC: Final = (1024, 256)
#: Up to so many files are opened before training starts; of more only the folders are read.
CHECKED_FILES: Final = 20_000

_TORCH: Final = ("torch/fashion_mnist", "torch/cifar10", "torch/cifar100", "torch/mnist", "torch/kmnist")
_SPLIT_NAMES: Final = {"train": ("train", "training"), "validation": ("validation", "val", "valid", "eval", "test")}


@dataclass(frozen=True, eq=False)
class Pictures:
    """A split whose pictures can be taken in any order.

    ``source`` is one of the classes below, which read a picture and say its name; ``rows`` are the pictures of it that
    belong to the split.
    """

    source: _Source
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def labels(self) -> NDArray[np.int64]:
        """The label of each picture [n]."""
        return self.source.labels[self.rows]

    def picture(self, place: int, mode: str) -> Image.Image:
        """The picture at a place, in PIL's ``mode``; ``DataError`` names the file when it cannot be read."""
        row = int(self.rows[place])
        try:
            return self.source.picture(row).convert(mode)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            why = "no image that PIL knows" if isinstance(error, UnidentifiedImageError) else str(error)
            raise DataError(f"{self.source.name(row)} cannot be read: {why}. Mend the file or take it out.") from None

    def name(self, place: int) -> str:
        """The file of a picture, or its number where it has none."""
        return self.source.name(int(self.rows[place]))


@dataclass(frozen=True, eq=False)
class Stream:
    """A split that is read in its own order (WebDataset): ``open`` gives timm's data set for training or not."""

    open: Callable[[int], IterableDataset[Any]]
    length: int
    name: str

    def __len__(self) -> int:
        return self.length


Split = Pictures | Stream


class _Source:
    """Where the pictures of a split are read from; ``labels`` [n]; ``classes`` are names where there are any."""

    labels: NDArray[np.int64]
    classes: Sequence[str] | None = None

    def picture(self, row: int) -> Image.Image:
        raise NotImplementedError

    def name(self, row: int) -> str:
        raise NotImplementedError


class _TimmSource(_Source):
    """timm's ``ImageDataset`` (folders, tar files, Hugging Face data sets), but for its skipping of broken files."""

    def __init__(self, dataset: Any, label: str) -> None:
        self._reader, self._label = dataset.reader, label
        samples = getattr(self._reader, "samples", None)
        targets = self._reader.iter_targets() if samples is None else (s[1] for s in samples)
        self.labels = np.fromiter(targets, dtype=np.int64)
        names = getattr(self._reader, "class_to_idx", None)
        self.classes = sorted(names, key=names.__getitem__) if names else None

    def picture(self, row: int) -> Image.Image:
        with self._reader[row][0] as file:
            image = Image.open(file)
            image.load()
        return image

    def name(self, row: int) -> str:
        file = self._reader.filename(row, absolute=True)
        return str(file) if file else f"picture {row} of {self._label}"


class _TorchSource(_Source):
    """A data set of torchvision whose pictures are arrays in memory."""

    def __init__(self, dataset: Any, label: str) -> None:
        self._dataset, self._label = dataset, label
        self.labels = np.asarray(dataset.targets, dtype=np.int64)
        self.classes = getattr(dataset, "classes", None)

    def picture(self, row: int) -> Image.Image:
        image: Image.Image = self._dataset[row][0]
        return image

    def name(self, row: int) -> str:
        return f"picture {row} of {self._label}"


class _SyntheticSource(_Source):
    """Noise with a patch whose place and colour tell the class, so that smoke tests can learn something."""

    def __init__(self, length: int, num_classes: int, size: int, stream: int) -> None:
        self.labels = np.arange(length, dtype=np.int64) % num_classes
        self._size, self._stream, self._num_classes = size, stream, num_classes

    def picture(self, row: int) -> Image.Image:
        # The noise costs more than the rest of a small network's step: only a few different ones are made.
        rng = np.random.default_rng(mixed(self._stream, row % 64))
        pixels = rng.integers(0, 96, (self._size, self._size, 3), dtype=np.uint8)
        place = np.random.default_rng(int(self.labels[row]))
        top, left = (int(v) for v in place.integers(0, max(1, self._size // 2), 2))
        side = self._size // 2
        pixels[top : top + side, left : left + side] += place.integers(32, 160, 3).astype(np.uint8)
        return Image.fromarray(pixels)

    def name(self, row: int) -> str:
        return f"synthetic picture {row}"


def open_splits(part: DataPart, path: str | Path | None, *, num_classes: int, seed: int = 0) -> tuple[Split, Split]:
    """The training and the validation pictures of a recipe.

    Args:
        part: The recipe's data section. With ``holdout`` the validation pictures are taken, class by class, out of the
            training ones; with ``subset`` the rest is thinned out in the same way, the held-out ones are not.
        path: The folder of the data; None for ``synthetic``.
        num_classes: Outputs of the network, which every label has to be below.
        seed: Decides which pictures are held out, and which are kept.

    Raises:
        DataError: No such folder, an empty split, classes that differ between the splits, a label outside
            ``num_classes``, a broken file: the text names it.
    """
    train = open_split(part, path, training=True, num_classes=num_classes)
    if isinstance(train, Stream):
        if part.holdout or part.subset < 1:
            raise DataError(f"data.holdout and data.subset need pictures in any order; {part.dataset} is read in its "
                            "own. Write the part wanted as a split of its own.")
        return train, open_split(part, path, training=False, num_classes=num_classes)
    if part.holdout:
        held = _stratified(train.labels, part.holdout, mixed(seed, 1), leave=1)
        val: Split = Pictures(train.source, train.rows[held])
        train = Pictures(train.source, train.rows[~held])
    else:
        val = open_split(part, path, training=False, num_classes=num_classes, classes=train.source.classes)
    if part.subset < 1:
        train = Pictures(train.source, train.rows[_stratified(train.labels, part.subset, mixed(seed, 2))])
    for split, name in ((train, "training"), (val, "validation")):
        if not len(split):
            raise DataError(f"No {name} picture is left with data.holdout {part.holdout:g} and data.subset "
                            f"{part.subset:g} of the {len(train.source.labels)} in {path}.")
    return train, val


def open_test(
    part: DataPart, path: str | Path | None, *, num_classes: int, train: Split | None = None,
) -> Split | None:
    """The pictures of ``test_split``, or None where the recipe names none; the training split gives the classes.

    Raises:
        DataError: As ``open_splits``.
    """
    if part.test_split is None:
        return None
    classes = train.source.classes if isinstance(train, Pictures) else None
    return open_split(replace(part, val_split=part.test_split), path, training=False, num_classes=num_classes,
                      classes=classes)


def open_split(
    part: DataPart, path: str | Path | None, *, training: bool, num_classes: int, classes: Sequence[str] | None = None,
) -> Split:
    """One split as it lies on disk, without ``holdout`` and ``subset``.

    Args:
        part, path, num_classes: As ``open_splits``.
        training: Whether ``train_split`` or ``val_split`` is opened.
        classes: The training split's class names, for the same labels in both.

    Raises:
        DataError: As ``open_splits``.
    """
    name = part.dataset
    split = part.train_split if training else part.val_split
    if name.partition("/")[0] == "synthetic":
        number = name.partition("/")[2]
        if number and not (number.isdigit() and int(number)):
            raise DataError(f"data.dataset is {name!r}; synthetic takes a number of pictures, as in synthetic/5000.")
        length = int(number) if number else SYNTHETIC[0]
        first = _is_training(name, split)
        length = length if first else max(1, length * SYNTHETIC[1] // SYNTHETIC[0])
        source: _Source = _SyntheticSource(length, num_classes, part.image_size, int(first))
        return Pictures(source, np.arange(length, dtype=np.int64))
    if path is None:
        raise DataError(f"The data set {name!r} is read from a folder: give it with --data.")
    root = Path(path).expanduser()
    if not name.lower().startswith(("hfds/", "hfids/")) and not root.exists():
        raise DataError(f"There is no {root}.")
    if name.lower().startswith(("wds/", "tfds/", "hfids/")):
        return _open_stream(name, root, split, training=training)
    if name in ("", "folder", "imagefolder"):
        source = _open_folder(root, split, classes)
    elif name.lower().startswith("torch/"):
        source = _open_torch(name.lower(), root, split)
    else:
        source = _open_timm(name, root, split)
    _check_labels(source, num_classes, f"the split {split!r} of {root}")
    pictures = Pictures(source, np.arange(len(source.labels), dtype=np.int64))
    if name in ("", "folder", "imagefolder") and len(pictures) <= CHECKED_FILES:
        check_files(pictures)
    return pictures


def check_files(pictures: Pictures, progress: Callable[[int, int], None] | None = None) -> None:
    """Open every picture, without decoding its pixels; ``DataError`` names the first that cannot be opened.

    A file cut off in the middle shows only when it is decoded: that error comes when training reaches the file.
    """
    reader = getattr(pictures.source, "_reader", None)
    for place, row in enumerate(pictures.rows):
        if reader is not None:
            try:
                with reader[int(row)][0] as file:
                    Image.open(file)
            except (OSError, SyntaxError, ValueError) as error:
                why = "no image that PIL knows" if isinstance(error, UnidentifiedImageError) else str(error)
                raise DataError(f"{pictures.name(place)} cannot be read: {why}. Mend the file or take it "
                                "out.") from None
        if progress is not None:
            progress(place + 1, len(pictures))


def _open_folder(root: Path, split: str, classes: Sequence[str] | None) -> _Source:
    from timm.data import create_dataset

    names = next((v for k, v in _SPLIT_NAMES.items() if split in v), (split,))
    folder = next((root / n for n in (split, *names) if (root / n).is_dir()), None)
    if folder is None:
        inside = sorted(p.name for p in root.iterdir() if p.is_dir())[:8] if root.is_dir() else []
        idx = root.is_dir() and any(root.glob("*-idx3-ubyte*"))
        raise DataError(f"{root} has no folder {split!r}" + (f"; it has {', '.join(inside)}" if inside else "")
                        + (". Files of MNIST's kind are read with --dataset torch/fashion_mnist" if idx else "")
                        + ". A data set of image folders is PATH/train/CLASS/*.jpg and PATH/validation/CLASS/*.jpg; "
                        "other names are set by data.train_split and data.val_split.")
    mine = sorted(p.name for p in folder.iterdir() if p.is_dir())
    if classes is not None and (lost := sorted(set(classes) - set(mine))):
        # Without this the labels of all later classes would be off by one, silently.
        raise DataError(f"{folder} has no folder of the class {lost[0]!r}, which training has"
                        + (f" (nor of {len(lost) - 1} others)" if len(lost) > 1 else "") + ".")
    if classes is not None and (new := sorted(set(mine) - set(classes))):
        raise DataError(f"{folder / new[0]} is a class that training does not have"
                        + (f" ({len(new) - 1} others too)" if len(new) > 1 else "") + ".")
    for name in mine:
        if not any(True for _, _, files in os.walk(folder / name) for f in files if _is_image(f)):
            raise DataError(f"The class folder {folder / name} holds no image.")
    if not mine:
        raise DataError(f"{folder} is empty: there is no class folder in it.")
    class_map: Any = None if classes is None else {c: i for i, c in enumerate(classes)}
    return _TimmSource(create_dataset("", str(folder), search_split=False, class_map=class_map), str(folder))


def _is_image(file: str) -> bool:
    from timm.data.readers.img_extensions import is_img_extension

    return bool(is_img_extension(Path(file).suffix.lower()))


def _is_training(name: str, split: str) -> bool:
    """Which of the two splits of such a data set a name means: the one to train on, or the other."""
    for training, names in zip((True, False), _SPLIT_NAMES.values(), strict=True):
        if split in names:
            return training
    raise DataError(f"{name} has no split {split!r}: it has train, and the other one, which is called validation or "
                    "test.")


def _open_torch(name: str, root: Path, wanted: str) -> _Source:
    from timm.data import create_dataset

    if name not in _TORCH:
        raise DataError(f"data.dataset is {name!r}; of torchvision's data sets bsszoo reads {', '.join(_TORCH)}.")
    training = _is_training(name, wanted)
    if name == "torch/fashion_mnist":
        root = unpacked(root, FASHION_MNIST)
    split = "train" if training else "test"
    try:
        dataset = create_dataset(name, str(root), split=split, download=False)
    except (RuntimeError, OSError, ValueError) as error:
        raise DataError(f"{root} holds no whole {name}: {error} Nothing is downloaded here; fetch it once with "
                        f"torchvision.datasets.") from None
    return _TorchSource(dataset, f"{name}'s {split} split in {root}")


def _open_timm(name: str, root: Path, split: str) -> _Source:
    from timm.data import create_dataset

    if "/" not in name:
        raise DataError(f"data.dataset is {name!r}, which is no known kind of data set. Known are folder, "
                        f"{', '.join(_TORCH)}, wds/NAME, hfds/NAME, hfids/NAME, tfds/NAME and synthetic.")
    try:
        return _TimmSource(create_dataset(name, str(root), split=split), f"{name}'s split {split!r}")
    except ImportError as error:
        raise DataError(f"The data set {name!r} needs a package that is not installed: {error}. "
                        'Install it with: pip install "bsszoo[data]"') from None
    except (OSError, ValueError, RuntimeError, AssertionError, KeyError) as error:
        raise DataError(f"The split {split!r} of {name!r} in {root} cannot be opened: {error}") from None


def _open_stream(name: str, root: Path, split: str, *, training: bool) -> Stream:
    from timm.data import create_dataset

    def opened(batch_size: int) -> Any:
        return create_dataset(name, str(root), split=split, is_training=training, batch_size=batch_size)

    try:
        length = len(opened(1))
    except (OSError, ValueError, RuntimeError, AssertionError, KeyError, AttributeError) as error:
        raise DataError(f"The split {split!r} of {name!r} in {root} cannot be opened: {error}. A WebDataset has an "
                        "_info.json with its splits, or data.train_split says its files and their number: "
                        "'train-{0000..0009}.tar|10000'.") from None
    if not length:
        raise DataError(f"The split {split!r} of {name!r} in {root} is empty.")
    return Stream(opened, length, f"{name}, split {split!r}")


def _check_labels(source: _Source, num_classes: int, what: str) -> None:
    if not len(source.labels):
        raise DataError(f"There is no picture in {what}.")
    wrong = np.flatnonzero((source.labels < 0) | (source.labels >= num_classes))
    if len(wrong):
        row = int(wrong[0])
        raise DataError(f"{source.name(row)} has the label {source.labels[row]}, and the network {num_classes} "
                        f"outputs; {len(wrong)} pictures of {what} are outside. Set model.num_classes to "
                        f"{int(source.labels.max()) + 1}, or take the classes out.")


def _stratified(labels: NDArray[np.int64], share: float, seed: int, *, leave: int = 0) -> NDArray[np.bool_]:
    """Which pictures are chosen [n]: of each class the share, at random; at least one, and at least ``leave`` not."""
    rng = np.random.default_rng(seed)
    chosen = np.zeros(len(labels), dtype=np.bool_)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        number = min(max(1, round(share * len(rows))), len(rows) - leave)
        chosen[rng.permutation(rows)[:number]] = True
    return chosen
