"""One reader for every command: what is an image, which class it is of, which way up, and what is refused by name."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from timm.data.readers.reader_image_folder import find_images_and_targets
from torchvision.datasets.folder import IMG_EXTENSIONS

from bsszoo.errors import DataError
from bsszoo.images import ENDINGS, check_image, image_files, natural_key, prepared, read_image, scan_class_folders

PIXELS = np.arange(24 * 16 * 3, dtype=np.uint8).reshape(24, 16, 3)


def save(path: Path, pixels: NDArray[np.generic] = PIXELS, kind: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, format=kind)
    return path


def relative(folder: Path, files: tuple[str, ...]) -> list[str]:
    return [Path(f).relative_to(folder).as_posix() for f in files]


# -- which files, and which class ---------------------------------------------------------------------------------


def test_the_endings_are_torchvisions_and_more() -> None:
    assert set(IMG_EXTENSIONS) < set(ENDINGS)


def test_labels_and_order_are_timms(tmp_path: Path) -> None:
    for name in ("cat10", "cat2", "Cat1", "dog", "5", "12"):
        for file in ("p10.jpg", "p9.png", "P1.JPG", "a.jpeg"):
            save(tmp_path / name / file, kind="PNG" if "png" in file else "JPEG")
    theirs, index = find_images_and_targets(str(tmp_path))
    scanned = scan_class_folders(tmp_path)
    assert list(zip(scanned.files, scanned.labels, strict=True)) == theirs
    assert {name: label for label, name in enumerate(scanned.names)} == index
    assert scanned.notes == ()


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=8), unique=True))
def test_any_names_have_one_order(names: list[str]) -> None:
    order = sorted(names, key=natural_key)
    names.reverse()
    assert sorted(names, key=natural_key) == order


def test_every_ending_is_read_and_counts(tmp_path: Path) -> None:
    kinds = {".jpg": "JPEG", ".jpeg": "JPEG", ".jfif": "JPEG", ".tif": "TIFF", ".tiff": "TIFF", ".pgm": "PPM"}
    for ending in ENDINGS:
        for name in (f"a{ending}", f"b{ending.upper()}"):
            save(
                tmp_path / "cat" / name,
                PIXELS[..., 0] if ending == ".pgm" else PIXELS,
                kinds.get(ending, ending[1:].upper()),
            )
    scanned = scan_class_folders(tmp_path)
    assert len(scanned.files) == 2 * len(ENDINGS)
    assert all(read_image(f).size == (16, 24) for f in scanned.files)
    assert sorted(map(str, image_files([tmp_path], most=None))) == sorted(scanned.files)


def test_other_files_are_counted_by_their_endings(tmp_path: Path) -> None:
    save(tmp_path / "cat" / "a.jpg")
    for name in ("x.heic", "y.heic", "z.gif", "list.txt", "README"):
        (tmp_path / "cat" / name).write_text("x")
    save(tmp_path / "beside.png")
    (tmp_path / "labels.csv").write_text("x")
    scanned = scan_class_folders(tmp_path)
    assert relative(tmp_path, scanned.files) == ["cat/a.jpg"]
    kinds, beside = scanned.notes
    assert kinds.endswith("5 files are of no kind that is read, and left out (.heic 2, .gif 1, .txt 1, README 1)")
    assert "1 image lies beside the class folders, and is left out (beside.png)" in beside
    (tmp_path / "cat" / "a.jpg").unlink()
    with pytest.raises(DataError, match=r"cat holds no image \(\.jpg, .*it has 5 files of other kinds"):
        scan_class_folders(tmp_path)


def test_hidden_names_are_neither_classes_nor_images(tmp_path: Path) -> None:
    save(tmp_path / "cat" / "a.jpg")
    for hidden in (
        ".ipynb_checkpoints/a-checkpoint.jpg",
        "__MACOSX/._a.jpg",
        "cat/.ipynb_checkpoints/a.jpg",
        "cat/._a.jpg",
        "cat/@eaDir/a.jpg",
        "cat/.DS_Store",
        ".git/x.jpg",
    ):
        save(tmp_path / hidden, kind="JPEG")
    (tmp_path / ".empty").mkdir()
    scanned = scan_class_folders(tmp_path)
    assert (scanned.names, relative(tmp_path, scanned.files)) == (("cat",), ["cat/a.jpg"])
    [note] = scanned.notes
    # There is no note on .DS_Store, nor of an empty folder.
    assert "6 hidden files or folders are left out (.ipynb_checkpoints, " in note
    assert image_files([tmp_path], most=None) == [tmp_path / "cat" / "a.jpg"]


def test_the_class_is_the_first_folder(tmp_path: Path) -> None:
    for name in ("cat/day1/a.jpg", "cat/day2/x/a.jpg", "dog/day1/a.jpg", "dog/b.jpg"):
        save(tmp_path / name)
    scanned = scan_class_folders(tmp_path)
    assert scanned.names == ("cat", "dog")
    assert dict(zip(relative(tmp_path, scanned.files), scanned.labels, strict=True)) == {
        "cat/day1/a.jpg": 0,
        "cat/day2/x/a.jpg": 0,
        "dog/day1/a.jpg": 1,
        "dog/b.jpg": 1,
    }
    [note] = scanned.notes
    assert "3 images lie in folders below their class folders; the class is the first folder" in note


@pytest.mark.parametrize("target", ["..", ".", "../..", "../dog", "sub"])
def test_links_read_no_folder_twice(tmp_path: Path, target: str) -> None:
    root = tmp_path / "train"
    for name in ("cat/a.jpg", "cat/sub/b.jpg", "dog/c.jpg"):
        save(root / name)
    (root / "cat" / "again").symlink_to(target)
    scanned = scan_class_folders(root)
    assert dict(zip(relative(root, scanned.files), scanned.labels, strict=True)).keys() >= {"cat/a.jpg", "dog/c.jpg"}
    assert len(scanned.files) == 3
    assert any("1 link leads to a folder that is read already" in note for note in scanned.notes)


def test_class_folders_may_be_links_but_not_to_one_folder_or_upwards(tmp_path: Path) -> None:
    root = tmp_path / "train"
    save(tmp_path / "store" / "felines" / "a.jpg")
    save(root / "dog" / "b.jpg")
    (root / "cat").symlink_to(tmp_path / "store" / "felines")
    (root / "up").symlink_to("..")
    scanned = scan_class_folders(root)
    assert (scanned.names, scanned.labels) == (("cat", "dog"), (0, 1))
    assert any("1 link leads to" in note and "up" in note for note in scanned.notes)
    (root / "kitten").symlink_to(tmp_path / "store" / "felines")
    with pytest.raises(DataError, match=r"'cat' and 'kitten' in .* are one folder"):
        scan_class_folders(root)


def test_a_pipe_is_not_waited_for_and_a_dead_link_is_named(tmp_path: Path) -> None:
    save(tmp_path / "cat" / "a.jpg")
    os.mkfifo(tmp_path / "cat" / "b.jpg")
    scanned = scan_class_folders(tmp_path)
    assert relative(tmp_path, scanned.files) == ["cat/a.jpg"]
    assert "1 entry is no ordinary file" in scanned.notes[0]
    (tmp_path / "cat" / "c.jpg").symlink_to("nowhere.jpg")
    dead = scan_class_folders(tmp_path).files[-1]
    with pytest.raises(DataError, match=r"c\.jpg cannot be read: No such file"):
        check_image(dead)


def test_a_link_in_a_circle_is_named_or_left_out_as_a_file(tmp_path: Path) -> None:
    save(tmp_path / "cat" / "a.jpg")
    (tmp_path / "cat" / "round").symlink_to("round")
    (tmp_path / "cat" / ".round").symlink_to(".round")
    assert relative(tmp_path, scan_class_folders(tmp_path).files) == ["cat/a.jpg"]
    (tmp_path / "cat" / "b.jpg").symlink_to("b.jpg")
    with pytest.raises(DataError, match=r"b\.jpg cannot be read: Too many levels"):
        check_image(scan_class_folders(tmp_path).files[-1])


def test_no_class_is_said(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="There is no class folder in"):
        scan_class_folders(tmp_path)


# -- what is in a file --------------------------------------------------------------------------------------------

TURNED: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_the_orientation_of_a_photograph_is_applied(tmp_path: Path, orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / "a.jpg"
    Image.fromarray(PIXELS).save(file, format=kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    assert np.array_equal(np.asarray(read_image(file)), TURNED[orientation](PIXELS))
    assert np.array_equal(np.asarray(read_image(file, oriented=False)), PIXELS)
    # Once turned, an image is not turned again.
    assert np.array_equal(np.asarray(prepared(read_image(file), "it")), TURNED[orientation](PIXELS))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_exif_data_say_nothing(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(file, exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\xff" * 40)
    assert np.array_equal(np.asarray(read_image(file)), PIXELS)


@pytest.mark.parametrize(
    ("pixels", "kind"),
    [
        (np.full((8, 8), 3800, dtype=np.uint16), "PNG"),
        (np.full((8, 8), 3800, dtype=np.uint16), "TIFF"),
        (np.full((8, 8), 0.5, dtype=np.float32), "TIFF"),
        (np.full((8, 8), 70_000, dtype=np.int32), "TIFF"),
        (np.full((8, 8), 3800, dtype=np.uint16), "PPM"),
    ],
)
def test_deep_images_are_refused_by_name(tmp_path: Path, pixels: NDArray[np.generic], kind: str) -> None:
    file = save(tmp_path / "deep.jpg", pixels, kind)
    for read in (read_image, check_image):
        with pytest.raises(DataError, match=r"deep\.jpg has more than 8 bits a channel"):
            read(file)
    with pytest.raises(DataError, match="it has more than 8 bits"):
        prepared(Image.open(file), "it")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_images_of_8_bits_are_read_in_their_mode(tmp_path: Path, mode: str) -> None:
    file = tmp_path / "a.tif"
    Image.fromarray(PIXELS).convert(mode).save(file)
    image = read_image(file)
    assert image.mode == mode
    assert np.array_equal(np.asarray(image), np.asarray(Image.fromarray(PIXELS).convert(mode)))


def png(width: int, height: int) -> bytes:
    """A PNG that says a size and holds nearly nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def test_a_huge_image_is_named_before_it_fills_the_memory(tmp_path: Path) -> None:
    file = tmp_path / "huge.png"
    file.write_bytes(png(30_000, 30_000))
    for read in (read_image, check_image):
        with pytest.raises(DataError, match=r"huge\.png is too large: Image size \(900000000 pixels\)"):
            read(file)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@given(
    st.binary(max_size=200),
    st.sampled_from(
        [b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"RIFF\0\0\0\0WEBPVP8 ", b"P6\n"]
    ),
)
def test_bytes_that_are_no_image_are_an_error_that_names_them(data: bytes, begin: bytes) -> None:
    for read in (read_image, check_image):
        assert read_or_named(read, io.BytesIO(begin + data), "the file")


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("seed", range(60))
def test_a_damaged_file_is_read_or_named(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    kind = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM")[seed % 6]
    file = save(tmp_path / "a.jpg", rng.integers(0, 255, (24, 16, 3), dtype=np.uint8), kind)
    data = bytearray(file.read_bytes())
    for index in rng.integers(0, len(data), 6):
        data[index] = rng.integers(256)
    file.write_bytes(bytes(data[: rng.integers(1, len(data) + 1)]))
    assert read_or_named(read_image, file, str(file))


def read_or_named(read: Callable[..., object], source: object, name: str) -> bool:
    """Whether a file is read; where it is not, the error names it."""
    try:
        read(source, name)
    except DataError as error:
        return name in str(error)
    return True


def test_no_such_image(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There is no image '.*x\.jpg'"):
        image_files([tmp_path / "x.jpg"])
    with pytest.raises(DataError, match=r"holds no image \(\.jpg"):
        image_files([tmp_path])
    for number in range(70):
        save(tmp_path / f"{number}.png", PIXELS[:2, :2])
    assert len(image_files([tmp_path])) == 64
    assert len(image_files([tmp_path, tmp_path / "1.png"], most=None)) == 71
