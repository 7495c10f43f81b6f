"""Debian's package of Fashion-MNIST, laid out as torchvision and bsszoo read it.

    python examples/training/fashion_mnist.py pictures
    bsszoo train recipes/fashion_mnist/resnet18_130m.yaml --data pictures --out runs/fashion

Without the package, ``torchvision.datasets.FashionMNIST("pictures", download=True)`` fetches the same files.
"""

from __future__ import annotations

import gzip
import shutil
import sys
from pathlib import Path

#: Where Debian's ``dataset-fashion-mnist`` puts the four gzipped files.
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def unpack(out: Path, source: Path = DEBIAN) -> Path:
    """Unpack the files to ``out/FashionMNIST/raw``; ``out``."""
    raw = out / "FashionMNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for packed in sorted(source.glob("*-ubyte.gz")):
        with gzip.open(packed) as file, (raw / packed.stem).open("wb") as plain:
            shutil.copyfileobj(file, plain)
    return out


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    unpack(Path(sys.argv[1]))
