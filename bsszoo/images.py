"""Images as every command reads them: which files they are, which class they belong to, and how they are decoded.

One list of file endings, one rule for what is a class and what is an image, one decoder. Whatever reads images goes
through this module, so that a file that one command refuses is not silently misread by another.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from PIL import Image, ImageOps, UnidentifiedImageError

from bsszoo.errors import DataError
from bsszoo.texts import one_line

#: The endings of image files, in lower case; those of torchvision's ``IMG_EXTENSIONS`` and ``.jfif``.
ENDINGS: Final = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
#: PIL's mode of images by their number of channels.
MODES: Final = {1: "L", 3: "RGB", 4: "CMYK"}
# Folders that systems and tools leave behind; what is in them is never data.
_CLUTTER: Final = {"__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information"}
_ORIENTATION: Final = 0x0112
_DIGITS: Final = re.compile(r"(\d+)")
# Names written out in a note; the rest are counted.
_NAMED: Final = 4


def is_image_name(name: str) -> bool:
    """Whether a file's name is that of an image: one of ``ENDINGS``, and not hidden."""
    return not is_hidden(name) and os.path.splitext(name)[1].lower() in ENDINGS  # noqa: PTH122 - a name, not a path


def is_hidden(name: str) -> bool:
    """Whether a file or folder is left out by its name: a leading dot, or a folder that a system leaves behind."""
    return name.startswith(".") or name in _CLUTTER


def read_image(source: str | Path | IO[bytes], name: str | None = None, *, oriented: bool = True) -> Image.Image:
    """Decode an image, in the mode that its file has.

    Args:
        source: A file, or an open binary file.
        name: What to call it in errors; the path by default.
        oriented: Whether the orientation in its EXIF data is applied, as every viewer does.

    Raises:
        DataError: It is no image, is damaged, larger than PIL decodes, or has more than 8 bits a channel.
    """
    label = str(source) if name is None else name
    try:
        with Image.open(source) as image:
            check_depth(image, label)
            image.load()
            return prepared(image, label, oriented=oriented).copy()
    except DataError:
        raise
    except Exception as error:  # decoders raise whatever damaged bytes lead them to
        raise unreadable(label, error) from None


def prepared(image: Image.Image, name: str, *, oriented: bool = True) -> Image.Image:
    """An image that a library has decoded, checked and oriented as ``read_image`` does."""
    check_depth(image, name)
    if not oriented:
        return image
    try:
        turned = image.getexif().get(_ORIENTATION, 1) not in (0, 1)
        return ImageOps.exif_transpose(image) if turned else image
    except Exception:
        return image


def converted(image: Image.Image, mode: str, name: str) -> Image.Image:
    """An image in PIL's ``mode``; ``DataError`` where there is no conversion."""
    try:
        return image.convert(mode)
    except (ValueError, OSError) as error:
        raise unreadable(name, error) from None


def check_image(source: str | Path | IO[bytes], name: str | None = None) -> None:
    """Open an image without decoding its pixels; ``DataError`` as ``read_image``.

    A file that is cut off in the middle shows only when it is decoded.
    """
    label = str(source) if name is None else name
    try:
        with Image.open(source) as image:
            check_depth(image, label)
    except DataError:
        raise
    except Exception as error:  # as in read_image
        raise unreadable(label, error) from None


def check_depth(image: Image.Image, name: str) -> None:
    """A ``DataError`` for more than 8 bits a channel, of which PIL's conversions make white or black."""
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        raise DataError(
            f"{name} has more than 8 bits a channel (PIL's mode {image.mode}), and networks here take 8. "
            "Which values are black and white depends on the data: convert all images of the set alike, by "
            "Image.fromarray((numpy.asarray(image) * (255 / WHITE)).clip(0, 255).astype('uint8')), with WHITE 65535 "
            "for the whole range of 16 bits, 4095 for 12."
        )


def unreadable(name: str, error: Exception) -> DataError:
    """The error that an image cannot be read, with the reason in one line."""
    if isinstance(error, Image.DecompressionBombError):
        return DataError(f"{name} is too large: {one_line(error)} Scale it down or take it out.")
    why = (
        "no image that PIL knows"
        if isinstance(error, UnidentifiedImageError)
        else ((error.strerror if isinstance(error, OSError) else None) or one_line(error) or type(error).__name__)
    )
    return DataError(f"{name} cannot be read: {why.rstrip('.')}. Repair the file or take it out.")


def image_files(sources: Sequence[str | Path], *, most: int | None = 64) -> list[Path]:
    """The files of images, and of up to ``most`` of those in each folder and below it; None for all.

    Raises:
        DataError: There is no such file, or no image in a folder.
    """
    files: list[Path] = []
    for source in sources:
        path = Path(source).expanduser()
        if path.is_dir():
            inside = sorted(Path(f) for f in _files_below(path, set(), Skipped()))
            if not inside:
                raise DataError(f"{path} holds no image ({', '.join(ENDINGS)}).")
            files += inside[:most]
        elif path.is_file():
            files.append(path)
        else:
            raise DataError(f"There is no image {one_line(source)!r}.")
    return files


@dataclass(frozen=True, slots=True)
class ClassFolders:
    """The images of a folder with one folder a class.

    ``names`` are the classes in the order of their labels; ``files`` the images in natural order, ``labels`` the class
    of each; ``notes`` count what was left out, and why.
    """

    names: tuple[str, ...]
    files: tuple[str, ...]
    labels: tuple[int, ...]
    notes: tuple[str, ...]


def scan_class_folders(folder: Path) -> ClassFolders:
    """Find the images of a folder: a class is a folder in it, and an image any image file in there, however deep.

    Names that begin with a dot and folders that systems leave behind are left out, as are other kinds of files. A
    folder is read once, wherever links lead. Labels and images are in timm's natural order (``cat2`` before ``cat10``).

    Raises:
        DataError: No class, a class without an image, two classes that are one folder, or a folder that cannot be read.
    """
    skipped = Skipped()
    classes: dict[str, str] = {}
    # A link that leads up, or into another class, would count images twice and under a wrong label.
    seen = {_identity(path) for path in (folder, *folder.resolve().parents)}
    for entry in _entries(str(folder), skipped):
        if _is_folder(entry):
            if _identity(entry.path) in seen:
                skipped.links[entry.name] += 1
            else:
                classes[entry.name] = entry.path
        elif is_image_name(entry.name):
            skipped.beside[entry.name] += 1
    if not classes:
        raise DataError(f"There is no class folder in {folder}; images are in {folder}/CLASS/*.jpg.")
    roots: dict[tuple[int, int], str] = {}
    for name, path in classes.items():
        other = roots.setdefault(_identity(path), name)
        if other != name:
            raise DataError(
                f"The class folders {other!r} and {name!r} in {folder} are one folder: its images would "
                "have two labels. Take one of them out."
            )
    names = sorted(classes, key=natural_key)
    labelled: list[tuple[str, int]] = []
    for label, name in enumerate(names):
        before = sum(skipped.endings.values())
        files = list(_files_below(Path(classes[name]), seen | (set(roots) - {_identity(classes[name])}), skipped))
        if not files:
            other_kinds = sum(skipped.endings.values()) - before
            more = f"; it has {other_kinds} files of other kinds" if other_kinds else ""
            raise DataError(f"The class folder {classes[name]} holds no image ({', '.join(ENDINGS)}){more}.")
        deep = [f for f in files if os.path.dirname(f) != classes[name]]  # noqa: PTH120 - of many thousand texts
        if deep:
            skipped.deep[os.path.relpath(os.path.dirname(deep[0]), folder)] += len(deep)  # noqa: PTH120
        labelled += [(f, label) for f in files]
    labelled.sort(key=lambda pair: natural_key(pair[0]))
    return ClassFolders(
        tuple(names), tuple(f for f, _ in labelled), tuple(n for _, n in labelled), skipped.notes(folder)
    )


class Skipped:
    """Counts what is left out of a folder, for the note."""

    def __init__(self) -> None:
        self.hidden: Counter[str] = Counter()
        self.endings: Counter[str] = Counter()
        self.links: Counter[str] = Counter()
        self.special: Counter[str] = Counter()
        self.beside: Counter[str] = Counter()
        self.deep: Counter[str] = Counter()

    def notes(self, folder: Path) -> tuple[str, ...]:
        """Sentences that count each kind and give examples."""
        out = []
        for counts, one, several in (
            (self.hidden, "hidden file or folder is left out", "hidden files or folders are left out"),
            (
                self.endings,
                "file is of no kind that is read, and left out",
                "files are of no kind that is read, and left out",
            ),
            (
                self.links,
                "link leads to a folder that is read already, and is left out",
                "links lead to folders that are read already, and are left out",
            ),
            (self.special, "entry is no ordinary file, and left out", "entries are no ordinary files, and left out"),
            (
                self.beside,
                "image lies beside the class folders, and is left out",
                "images lie beside the class folders, and are left out",
            ),
            (
                self.deep,
                "image lies in a folder below its class folder; the class is the first folder",
                "images lie in folders below their class folders; the class is the first folder",
            ),
        ):
            total = sum(counts.values())
            if total:
                named = ", ".join(
                    one_line(name, 60) + (f" {n}" if counts is self.endings else "")
                    for name, n in sorted(counts.items(), key=lambda c: (-c[1], c[0]))[:_NAMED]
                )
                more = ", .." if len(counts) > _NAMED else ""
                out.append(f"{folder}: {total:,} {one if total == 1 else several} ({named}{more})")
        return tuple(out)


def natural_key(text: str) -> tuple[list[str | int], str]:
    """A key that sorts numbers in texts by their value, as timm sorts classes and files; equal ones by the text."""
    parts: list[str | int] = [int(p) if i % 2 else p for i, p in enumerate(_DIGITS.split(text.lower()))]
    return parts, text


def _files_below(folder: Path, seen: set[tuple[int, int]], skipped: Skipped) -> Iterator[str]:
    """The image files in a folder and below it; each folder is read once, and none of ``seen``."""
    seen = {*seen, _identity(folder)}
    waiting = [str(folder)]
    while waiting:
        for entry in _entries(waiting.pop(), skipped):
            if _is_folder(entry):
                identity = _identity(entry.path)
                if identity in seen:
                    skipped.links[entry.name] += 1
                else:
                    seen.add(identity)
                    waiting.append(entry.path)
            elif not is_image_name(entry.name):
                skipped.endings[os.path.splitext(entry.name)[1].lower() or entry.name] += 1  # noqa: PTH122
            elif entry.is_symlink() or entry.is_file():  # a link to nothing is named when it is opened
                yield entry.path
            else:
                skipped.special[entry.name] += 1  # a pipe would be waited for, without end


def _entries(folder: str, skipped: Skipped) -> list[os.DirEntry[str]]:
    """What is in a folder, by name, without the hidden."""
    try:
        with os.scandir(folder) as entries:
            listed = sorted(entries, key=lambda e: e.name)
    except OSError as error:
        raise DataError(f"The folder {folder} cannot be read: {error.strerror or error}.") from None
    out = []
    for entry in listed:
        if not is_hidden(entry.name):
            out.append(entry)
        elif _is_worth_a_note(entry):
            skipped.hidden[entry.name] += 1
    return out


def _is_worth_a_note(entry: os.DirEntry[str]) -> bool:
    """Hidden folders with something in them, and hidden files with an image's ending; not ``.DS_Store``."""
    if not _is_folder(entry):
        return os.path.splitext(entry.name)[1].lower() in ENDINGS  # noqa: PTH122
    try:
        with os.scandir(entry.path) as inside:
            return any(True for _ in inside)
    except OSError:
        return True


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle, or into a folder that may not be entered
        return False


def _identity(path: str | Path) -> tuple[int, int]:
    try:
        status = os.stat(path)  # noqa: PTH116 - of many folders
    except OSError as error:
        raise DataError(f"The folder {path} cannot be read: {error.strerror or error}.") from None
    return status.st_dev, status.st_ino
