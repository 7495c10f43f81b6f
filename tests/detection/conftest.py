"""A small set of drawn shapes in COCO's format, for all tests of detectors."""

from __future__ import annotations

from pathlib import Path

import pytest
import shapes_coco


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shapes")
    shapes_coco.write_split(root, "train", 24, 0)
    shapes_coco.write_split(root, "val", 8, 1)
    return root
