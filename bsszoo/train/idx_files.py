"""MNIST's file format as packages carry it: gzipped files, unpacked once to where torchvision looks for them."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from bsszoo.errors import DataError

#: The folder that torchvision's class looks for.
FASHION_MNIST: Final = "FashionMNIST"
_FILES: Final = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def unpacked(root: Path, name: str) -> Path:
    """The folder that torchvision's class ``name`` reads: ``root`` itself, or one in the cache with unpacked files.

    ``root`` may hold ``NAME/raw/*-ubyte`` as torchvision lays it out, or the four files themselves, gzipped or not, as
    Debian's ``dataset-fashion-mnist`` does.

    Raises:
        DataError: Some of the four files are missing or broken; the text names them.
    """
    if (root / name / "raw").is_dir():
        root = root / name / "raw"
    found = {f: next((p for p in (root / f, root / f"{f}.gz") if p.is_file()), None) for f in _FILES}
    missing = [f for f, path in found.items() if path is None]
    if missing:
        raise DataError(
            f"{root} has no {missing[0]} (nor {missing[0]}.gz): {name} is four files of that form. "
            "Debian's package dataset-fashion-mnist puts them into /usr/share/datasets/fashion-mnist."
        )
    if root.parent.name == name and all(path.suffix != ".gz" for path in found.values() if path):
        return root.parent.parent
    mark = hashlib.sha256(
        "".join(f"{p} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in found.values() if p).encode()
    ).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bsszoo" / f"{name}-{mark}"
    if not cache.exists():
        cache.parent.mkdir(parents=True, exist_ok=True)
        # Written beside and renamed as a whole: a process that is killed leaves no half of it.
        with tempfile.TemporaryDirectory(dir=cache.parent) as scratch:
            raw = Path(scratch) / "data" / name / "raw"
            raw.mkdir(parents=True)
            for file, path in found.items():
                assert path is not None
                _unpack(path, raw / file)
            try:
                (Path(scratch) / "data").rename(cache)
            except OSError:
                if not cache.exists():  # else another process was first
                    raise
    return cache


def _unpack(path: Path, target: Path) -> None:
    if path.suffix != ".gz":
        shutil.copyfile(path, target)
        return
    try:
        with gzip.open(path, "rb") as packed, target.open("wb") as plain:
            shutil.copyfileobj(packed, plain)
    except (OSError, EOFError) as error:
        raise DataError(f"{path} cannot be unpacked: {error}") from None
