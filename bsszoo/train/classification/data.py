"""The images of a recipe: timm's and torchvision's data sets, opened and checked before the first update."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bsszoo.errors import DataError
from bsszoo.images import check_image, converted, is_hidden, is_image_name, prepared, read_image, scan_class_folders
from bsszoo.texts import one_line
from bsszoo.train.seeds import mixed

if TYPE_CHECKING:
    from torch.utils.data import IterableDataset

    from bsszoo.train.classification.recipe import DataPart

#: Images of ``synthetic``, for training and for validation, where the name gives no number.
SYNTHETIC: Final = (1024, 256)
# Different noises of synthetic images, and most bytes of them that a process keeps.
_NOISES: Final = 64
_MOST_NOISE: Final = 2**26
#: Most files that are opened before training starts; of more only the folders are read.
CHECKED_FILES: Final = 20_000

_TORCH: Final = ("torch/fashion_mnist", "torch/cifar10", "torch/cifar100", "torch/mnist", "torch/kmnist")
# Names that mean the same split; ``test`` is another split, also where it is the only other one.
_TRAIN: Final = ("train", "training")
_VALIDATION: Final = ("validation", "val", "valid", "eval")
_KINDS: Final = {"train": _TRAIN, "validation": _VALIDATION, "test": ("test",)}
#: The share of a folder of classes without splits that is taken for validation, and as much again as test.
FLAT_SHARE: Final = 0.1


@dataclass(frozen=True, eq=False)
class ImageSplit:
    """A split whose images can be read in any order.

    ``source`` is one of the classes below, which read an image and give its name; ``indices`` are those of its images
    that belong to the split. ``split`` is the name that the folder or the data set has for it.
    """

    source: _Source
    indices: NDArray[np.int64]
    split: str

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def labels(self) -> NDArray[np.int64]:
        """The label of each image [n]."""
        return self.source.labels[self.indices]

    def image(self, index: int, mode: str) -> Image.Image:
        """The image at an index, in PIL's ``mode``; ``DataError`` names the file when it cannot be read."""
        source_index = int(self.indices[index])
        return converted(self.source.image(source_index), mode, self.source.name(source_index))

    def name(self, index: int) -> str:
        """The file of an image, or its number where it has none."""
        return self.source.name(int(self.indices[index]))


@dataclass(frozen=True, eq=False)
class Stream:
    """A split that is read in a fixed order (WebDataset); ``open`` takes a batch size and returns timm's data set."""

    open: Callable[[int], IterableDataset[Any]]
    length: int
    name: str
    split: str

    def __len__(self) -> int:
        return self.length


Split = ImageSplit | Stream


class _Source:
    """Where the images of a split are read from.

    ``labels`` [n]; ``classes`` are names where there are any; ``notes`` are sentences for the user.
    """

    labels: NDArray[np.int64]
    classes: Sequence[str] | None = None
    notes: tuple[str, ...] = ()

    def image(self, index: int) -> Image.Image:
        """An image, oriented; ``DataError`` names it where it cannot be read."""
        raise NotImplementedError

    def check(self, index: int) -> None:
        """A ``DataError`` where an image cannot be opened; its pixels are not decoded."""

    def name(self, index: int) -> str:
        raise NotImplementedError


class _FolderSource(_Source):
    """Image files in one folder a class."""

    def __init__(self, folder: Path) -> None:
        scanned = scan_class_folders(folder)
        self._files, self.classes, self.notes = scanned.files, scanned.names, scanned.notes
        self.labels = np.array(scanned.labels, dtype=np.int64)

    def image(self, index: int) -> Image.Image:
        return read_image(self._files[index])

    def check(self, index: int) -> None:
        check_image(self._files[index])

    def name(self, index: int) -> str:
        return self._files[index]


class _TimmSource(_Source):
    """A Hugging Face data set through timm's reader."""

    def __init__(self, dataset: Any, label: str) -> None:
        self._reader, self._label = dataset.reader, label
        self.labels = np.fromiter(self._reader.iter_targets(), dtype=np.int64)
        names = getattr(self._reader, "class_to_idx", None)
        self.classes = sorted(names, key=names.__getitem__) if names else None

    def image(self, index: int) -> Image.Image:
        with self._reader[index][0] as file:
            return read_image(file, self.name(index))

    def check(self, index: int) -> None:
        with self._reader[index][0] as file:
            check_image(file, self.name(index))

    def name(self, index: int) -> str:
        file = self._reader.filename(index, absolute=True)
        return str(file) if file else f"image {index} of {self._label}"


class _TorchSource(_Source):
    """A data set of torchvision whose images are arrays in memory."""

    def __init__(self, dataset: Any, label: str) -> None:
        self._dataset, self._label = dataset, label
        self.labels = np.asarray(dataset.targets, dtype=np.int64)
        self.classes = getattr(dataset, "classes", None)

    def image(self, index: int) -> Image.Image:
        return prepared(self._dataset[index][0], self.name(index))

    def name(self, index: int) -> str:
        return f"image {index} of {self._label}"


class _SyntheticSource(_Source):
    """Noise with a patch whose position and colour depend on the class, so that smoke tests can learn something."""

    def __init__(self, length: int, num_classes: int, size: int, stream: int) -> None:
        self.labels = np.arange(length, dtype=np.int64) % num_classes
        self._size, self._stream, self._num_classes = size, stream, num_classes
        self._kept: dict[int, NDArray[np.uint8]] = {}

    def image(self, index: int) -> Image.Image:
        pixels = self._noise(index % _NOISES).copy()
        patch = np.random.default_rng(int(self.labels[index]))
        top, left = (int(v) for v in patch.integers(0, max(1, self._size // 2), 2))
        side = self._size // 2
        pixels[top : top + side, left : left + side] += patch.integers(32, 160, 3).astype(np.uint8)
        return Image.fromarray(pixels)

    def _noise(self, number: int) -> NDArray[np.uint8]:
        # It takes several times as long as all else of an image, so a few different ones are made, and small ones kept.
        if number in self._kept:
            return self._kept[number]
        rng = np.random.default_rng(mixed(self._stream, number))
        pixels = rng.integers(0, 96, (self._size, self._size, 3), dtype=np.uint8)
        if _NOISES * pixels.nbytes <= _MOST_NOISE:
            self._kept[number] = pixels
        return pixels

    def name(self, index: int) -> str:
        return f"synthetic image {index}"


def open_splits(part: DataPart, path: str | Path | None, *, num_classes: int) -> tuple[Split, Split]:
    """The training and the validation images of a recipe.

    Args:
        part: The recipe's data section. With ``holdout`` the validation images are taken, class by class, out of the
            training ones; with ``subset`` the rest is thinned out in the same way, the held-out ones are not. Which
            ones they are is the same for every training.
        path: The folder of the data; None for ``synthetic``.
        num_classes: Outputs of the network, which every label has to be below.

    Raises:
        DataError: No such folder, an empty split, classes that differ between the splits, a label outside
            ``num_classes``, a broken file: the text names it.
    """
    train = open_split(part, path, training=True, num_classes=num_classes)
    if isinstance(train, Stream):
        if part.holdout or part.subset < 1:
            raise DataError(
                f"data.holdout and data.subset need images in any order; {part.dataset} is read in a "
                "fixed order. Write the wanted part as another split."
            )
        return train, open_split(part, path, training=False, num_classes=num_classes)
    if part.holdout:
        held = _stratified(train.labels, part.holdout, mixed(0, 1), leave=1)
        val: Split = ImageSplit(train.source, train.indices[held], f"{part.holdout:g} of {train.split}, held out")
        train = replace(train, indices=train.indices[~held])
    else:
        val = open_split(part, path, training=False, num_classes=num_classes, classes=train.source.classes)
    if part.subset < 1:
        train = replace(train, indices=train.indices[_stratified(train.labels, part.subset, mixed(0, 2))])
    for split, name in ((train, "training"), (val, "validation")):
        if not len(split):
            raise DataError(
                f"No {name} image is left with data.holdout {part.holdout:g} and data.subset "
                f"{part.subset:g} of the {len(train.source.labels)} in {path}."
            )
    return train, val


def open_test(
    part: DataPart,
    path: str | Path | None,
    *,
    num_classes: int,
    splits: tuple[Split, Split] | None = None,
    classes: Sequence[str] | None = None,
) -> Split | None:
    """The images of ``test_split``, or None where the recipe names none.

    Args:
        part, path, num_classes: As ``open_splits``.
        splits: What ``open_splits`` returned: the training split has the classes; the validation split is another.
        classes: The names of the training split's classes, where ``splits`` is None.

    Raises:
        DataError: As ``open_splits``; or it is the split that the recipe validates on, by which the best epoch is
            chosen.
    """
    if part.test_split is None:
        return None
    train, val = splits or (None, None)
    classes = train.source.classes if isinstance(train, ImageSplit) else classes
    test = open_split(
        part.replaced(val_split=part.test_split), path, training=False, num_classes=num_classes, classes=classes
    )
    if val is not None and not part.holdout and test.split == val.split:
        raise DataError(
            f"data.test_split is {part.test_split!r}, and the recipe validates on the same images "
            f"({val.split}): a test is on images by which nothing was chosen. Set data.holdout=0.1, to "
            "validate on a tenth of the training images, or name another split; both make another "
            "training, with another --out."
        )
    return test


def unseen_split(part: DataPart, path: str | Path | None) -> str:
    """The split that a search which validates on held-out training images never sees.

    The recipe's ``test_split``; else its ``val_split``; else ``test`` where a folder has that one only.
    """
    if part.test_split is not None:
        return part.test_split
    only_test = not has_split(part, path, part.val_split) and has_split(part, path, "test")
    return "test" if only_test else part.val_split


def has_split(part: DataPart, path: str | Path | None, split: str) -> bool:
    """Whether there is a folder of a split; of other data sets than folders the reader says so when it opens one."""
    if not is_folder(part.dataset) or path is None:
        return True
    root = Path(path).expanduser()
    return _split_folder(root, split) is not None or (_kind(split) is not None and is_flat(root))


def class_names(split: Split) -> tuple[str, ...] | None:
    """The names of a split's classes in the order of their labels; None where the data have no names."""
    names = split.source.classes if isinstance(split, ImageSplit) else None
    return tuple(map(str, names)) if names else None


def split_notes(*splits: Split | None) -> tuple[str, ...]:
    """The notes of the splits for the user, each sentence once."""
    return tuple(dict.fromkeys(n for s in splits if isinstance(s, ImageSplit) for n in s.source.notes))


def open_split(
    part: DataPart,
    path: str | Path | None,
    *,
    training: bool,
    num_classes: int,
    classes: Sequence[str] | None = None,
    whole: bool = True,
) -> Split:
    """One split as it lies on disk, without ``holdout`` and ``subset``.

    Args:
        part, path, num_classes: As ``open_splits``.
        training: Whether ``train_split`` or ``val_split`` is opened.
        classes: The names that the labels stand for, in order: the training split's, or those that a network was
            trained with. The split's classes get the labels of their names.
        whole: Whether the split has to have all of these classes.

    Raises:
        DataError: As ``open_splits``.
    """
    name = part.dataset
    split = part.train_split if training else part.val_split
    if is_synthetic(name):
        return _open_synthetic(part, split, num_classes)
    if path is None:
        raise DataError(f"The data set {name!r} is read from a folder: give it with --data.")
    root = Path(path).expanduser()
    if not name.lower().startswith(("hfds/", "hfids/")) and not root.exists():
        raise DataError(f"There is no {root}.")
    if name.lower().startswith(("wds/", "tfds/", "hfids/")):
        return _open_stream(name, root, split, training=training)
    source: _Source
    indices: NDArray[np.int64] | None = None
    if is_folder(name):
        folder, kind = _split_folder(root, split), _kind(split)
        if folder is not None:
            source, split, what = _FolderSource(folder), folder.name, str(folder)
        elif kind is not None and is_flat(root):
            source, split, what = _FolderSource(root), kind, str(root)
            # By the classes in the folder's order, before they get the labels of a network.
            indices = _part_of_flat(source, root, kind)
        else:
            raise _no_split(root, split, training=training)
    elif name.lower().startswith("torch/"):
        split = _torch_split(name.lower(), split)
        source, what = _open_torch(name.lower(), root, split), f"the split {split!r} of {root}"
    else:
        source, what = _open_timm(name, root, split), f"the split {split!r} of {name}"
    if classes is not None and source.classes is not None:
        _relabel(source, classes, what, whole=whole)
    _check_labels(source, num_classes, what)
    indices = np.arange(len(source.labels), dtype=np.int64) if indices is None else indices
    opened = ImageSplit(source, indices, split)
    if is_folder(name) and len(opened) <= CHECKED_FILES:
        check_files(opened)
    return opened


def is_flat(root: Path) -> bool:
    """Whether a folder holds class folders of images itself, and no folders of splits."""
    if not root.is_dir():
        return False
    inside = [p for p in root.iterdir() if p.is_dir() and not is_hidden(p.name)]
    named = {name for names in _KINDS.values() for name in names}
    return (
        len(inside) > 1
        and not named & {p.name.lower() for p in inside}
        and all(any(is_image_name(file.name) for file in p.iterdir()) for p in inside)
    )


def _part_of_flat(source: _FolderSource, root: Path, kind: str) -> NDArray[np.int64]:
    """The images of one split of a folder that has none: of each class a tenth for validation, a tenth as test.

    At random, but which they are follows from the number of each class's images alone, so all commands agree.
    """
    labels = source.labels
    test = _stratified(labels, FLAT_SHARE, mixed(0, 3), leave=1)
    rest = np.flatnonzero(~test)
    held = rest[_stratified(labels[rest], FLAT_SHARE / (1 - FLAT_SHARE), mixed(0, 4), leave=1)]
    parts = {"test": np.flatnonzero(test), "validation": held, "train": np.setdiff1d(rest, held)}
    each = ", ".join(f"{len(parts[name]):,} for {name}" for name in _KINDS)
    source.notes += (
        f"{root} has no folders train, validation and test: its {len(labels):,} images are divided, class by class "
        f"and the same in every run: {each}",
    )
    return parts[kind].astype(np.int64)


def check_files(split: ImageSplit) -> None:
    """Open every image, without decoding its pixels; ``DataError`` names the first that cannot be opened.

    A file cut off in the middle shows only when it is decoded: that error comes when training reaches the file.
    """
    for index in split.indices:
        split.source.check(int(index))


def is_synthetic(name: str) -> bool:
    """Whether a data set's name is that of made-up images."""
    return name.partition("/")[0] == "synthetic"


def is_folder(name: str) -> bool:
    """Whether a data set's name is that of image folders."""
    return name.lower() in ("", "folder", "imagefolder")


def _kind(split: str) -> str | None:
    """``train``, ``validation`` or ``test``, which the name of a split means; None for another."""
    return next((kind for kind, names in _KINDS.items() if split in names), None)


def _split_folder(root: Path, split: str) -> Path | None:
    """The folder of a split; where there is none by that name, one whose name means the same."""
    names = next((names for names in (_TRAIN, _VALIDATION) if split in names), ())
    return next((root / n for n in (split, *names) if n and (root / n).is_dir()), None)


def _no_split(root: Path, split: str, *, training: bool) -> DataError:
    inside = sorted(p.name for p in root.iterdir() if p.is_dir() and not is_hidden(p.name)) if root.is_dir() else []
    idx = root.is_dir() and any(root.glob("*-idx3-ubyte*"))
    text = f"{root} has no folder {split!r}"
    text += f"; it has {', '.join(one_line(n, 40) for n in inside[:8])}" if inside else ""
    if len(inside) == 1 and not any(inside[0] in names for names in _KINDS.values()):
        text += ", which as PATH/CLASS is one class, and a classifier takes two or more"
    text += (
        ". Files of MNIST's kind are read with --dataset torch/fashion_mnist, unpacked in PATH/FashionMNIST/raw"
        if idx
        else ""
    )
    if not training and "test" in inside and split in _VALIDATION:
        text += (
            ". Images named test are not taken for validation, which chooses among epochs and networks: hold "
            "some of the training ones out with data.holdout=0.1, or name them by data.val_split=test"
        )
    return DataError(
        text + ". A data set of image folders is PATH/train/CLASS/*.jpg and PATH/validation/CLASS/*.jpg; "
        "other names are set by data.train_split, data.val_split and data.test_split (--split of `bsszoo validate`). A "
        "folder PATH/CLASS/*.jpg is divided by itself."
    )


def _relabel(source: _Source, classes: Sequence[str], what: str, *, whole: bool) -> None:
    """Give the images of a source the labels that its classes' names have among ``classes``.

    By the index of a class among its folders, one that is missing or has another name would turn all later labels.
    """
    present = list(source.classes or ())
    new = [name for name in present if name not in set(classes)]
    lost = [name for name in classes if name not in set(present)]
    if new:
        valid = ", ".join(one_line(c, 40) for c in classes[:12]) + (", .." if len(classes) > 12 else "")
        raise DataError(
            f"{what} has the class {new[0]!r}"
            + (f" (and {len(new) - 1} others)" if len(new) > 1 else "")
            + f", which training does not have. Its classes are: {valid}. Rename its folder to the class that "
            "it is, or take it out."
        )
    if lost and whole:
        raise DataError(
            f"{what} has no folder of the class {lost[0]!r}, which training has"
            + (f" (nor of {len(lost) - 1} others)" if len(lost) > 1 else "")
            + "."
        )
    if lost:
        named = ", ".join(one_line(c, 40) for c in lost[:4]) + (", .." if len(lost) > 4 else "")
        source.notes += (
            f"{what} has images of {len(present)} of the {len(classes)} classes; there are none of {named}",
        )
    label_of = {name: label for label, name in enumerate(classes)}
    source.labels = np.array([label_of[name] for name in present], dtype=np.int64)[source.labels]
    source.classes = list(classes)


def _open_synthetic(part: DataPart, split: str, num_classes: int) -> ImageSplit:
    number = part.dataset.partition("/")[2]
    if number and not (number.isdecimal() and len(number) <= 9 and int(number)):
        raise DataError(
            f"data.dataset is {one_line(part.dataset)!r}; synthetic takes a number of images of at most "
            "nine digits, as in synthetic/5000."
        )
    train = int(number) if number else SYNTHETIC[0]
    kind = _kind(split)
    if kind is None:
        raise DataError(f"{part.dataset} has no split {split!r}: it has {', '.join(_KINDS)}.")
    length = train if kind == "train" else max(1, train * SYNTHETIC[1] // SYNTHETIC[0])
    source = _SyntheticSource(length, num_classes, part.image_size, {"train": 1, "validation": 0, "test": 2}[kind])
    return ImageSplit(source, np.arange(length, dtype=np.int64), kind)


def _torch_split(name: str, split: str) -> str:
    """Which of the two splits of a torchvision data set a name means: there is ``train``, and ``test``."""
    if split in _TRAIN:
        return "train"
    if split in (*_VALIDATION, "test"):
        return "test"
    raise DataError(
        f"{name} has no split {split!r}: it has train and test; a name of validation means the latter, as "
        "there is no other."
    )


def _open_torch(name: str, root: Path, split: str) -> _Source:
    from timm.data import create_dataset

    if name not in _TORCH:
        raise DataError(f"data.dataset is {name!r}; of torchvision's data sets bsszoo reads {', '.join(_TORCH)}.")
    try:
        dataset = create_dataset(name, str(root), split=split, download=False)
    except (RuntimeError, OSError, ValueError) as error:
        raise DataError(
            f"{root} holds no whole {name}: {one_line(error)}. Nothing is downloaded here; fetch it once with "
            "torchvision.datasets, and give its download folder. Fashion-MNIST's is the one that holds "
            "FashionMNIST/raw/*-ubyte, unpacked."
        ) from None
    return _TorchSource(dataset, f"{name}'s {split} split in {root}")


def _open_timm(name: str, root: Path, split: str) -> _Source:
    from timm.data import create_dataset

    # timm takes any other prefix for a folder, and reads whatever is in it where the split is missing.
    if not name.lower().startswith("hfds/"):
        raise DataError(
            f"data.dataset is {name!r}, which is no kind of data set that is read. Those are folder, "
            f"{', '.join(_TORCH)}, wds/NAME, hfds/NAME, hfids/NAME, tfds/NAME and synthetic."
        )
    try:
        return _TimmSource(create_dataset(name, str(root), split=split), f"{name}'s split {split!r}")
    except ImportError as error:
        raise DataError(
            f"The data set {name!r} needs a package that is not installed: {error}. "
            'Install it with: pip install "bsszoo[data]"'
        ) from None
    except (OSError, ValueError, RuntimeError, AssertionError, KeyError, TypeError) as error:
        raise DataError(f"The split {split!r} of {name!r} in {root} cannot be opened: {one_line(error)}") from None


def _open_stream(name: str, root: Path, split: str, *, training: bool) -> Stream:
    from timm.data import create_dataset

    # Images as decoded: timm's conversion would turn 16 bits to white. TensorFlow decodes to 8 by itself.
    mode: dict[str, Any] = {} if name.lower().startswith("tfds/") else {"input_img_mode": ""}

    def opened(batch_size: int) -> Any:
        return create_dataset(name, str(root), split=split, is_training=training, batch_size=batch_size, **mode)

    try:
        length = len(opened(1))
    except (OSError, ValueError, RuntimeError, AssertionError, KeyError, AttributeError) as error:
        raise DataError(
            f"The split {split!r} of {name!r} in {root} cannot be opened: {one_line(error)}. A WebDataset "
            "has an _info.json with its splits, or data.train_split says its files and their number: "
            "'train-{0000..0009}.tar|10000'."
        ) from None
    if not length:
        raise DataError(f"The split {split!r} of {name!r} in {root} is empty.")
    return Stream(opened, length, f"{name}, split {split!r}", split)


def _check_labels(source: _Source, num_classes: int, what: str) -> None:
    if not len(source.labels):
        raise DataError(f"There is no image in {what}.")
    wrong = np.flatnonzero((source.labels < 0) | (source.labels >= num_classes))
    if len(wrong):
        index = int(wrong[0])
        raise DataError(
            f"{source.name(index)} has the label {source.labels[index]}, and the network {num_classes} "
            f"outputs; {len(wrong)} images of {what} are outside. Set model.num_classes to "
            f"{int(source.labels.max()) + 1}, or take the classes out."
        )


def _stratified(labels: NDArray[np.int64], share: float, seed: int, *, leave: int = 0) -> NDArray[np.bool_]:
    """Which images are chosen [n]: of each class the share, at random; at least one, and at least ``leave`` not."""
    rng = np.random.default_rng(seed)
    chosen = np.zeros(len(labels), dtype=np.bool_)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        number = min(max(1, round(share * len(rows))), len(rows) - leave)
        chosen[rng.permutation(rows)[:number]] = True
    return chosen
