"""Opens mutations of a small right COCO file, and draws what they annotate; run in a process that may crash.

    python coco_fuzzer.py FOLDER SEED COUNT

FOLDER is a data set of shapes. Prints how often each end was reached; anything but a DataError ends it.
"""

from __future__ import annotations

import json
import random
import resource
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from bsszoo.errors import DataError
from bsszoo.train.detection.data import open_coco
from bsszoo.train.detection.recipe import CocoPart
from bsszoo.train.detection.samples import mask_of, read_annotated_image

VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    7,
    64,
    10**9,
    2**31,
    2**63,
    10**19,
    -(10**19),
    10**400,
    0.5,
    -0.5,
    1e9,
    -1e9,
    1e300,
    float("nan"),
    float("inf"),
    "",
    "0",
    "1",
    "false",
    "a\x1b[2Jb",
    "\ud800",
    "../x",
    "/dev/null",
    "x" * 5000,
    [],
    {},
    [[]],
    [1],
    [0, 0, 1, 1],
    [[0, 0, 9, 0, 9, 9]],
    [[1e9, 0, 9, 0, 9, 9]],
    [[0, 0] * 3],
    [[5, 5, 6, 6, 5, 6], []],
    {"size": [1, 1], "counts": [1]},
    {"size": [True, 1], "counts": "0"},
    {"counts": "0" * 9999},
    "P" * 100_000,
    "o" * 100_000,
    "0" * 100_000,
    [0] * 100_000,
    [-1, 1],
    [[0, 0, 90, 90] * 9000],
]
TEXTS = ["", "null", "[]", "{", "[" * 100_000, '{"images": ' + "1" * 5000 + "}", "\ufeff{}", '{"a": "\ud83d"}']


def main(root: Path, seed: int, count: int) -> None:
    # A seconds' limit on computing, not on waiting: a loop without end is killed by it.
    resource.setrlimit(resource.RLIMIT_CPU, (300, 300))
    file = root / "annotations" / "instances_train.json"
    whole = file.read_text()
    rng, ends = random.Random(seed), Counter[str]()
    for number in range(count):
        if number < len(TEXTS):
            file.write_bytes(TEXTS[number].encode("utf-8", "surrogatepass"))
            what = f"text {number}"
        elif number % 10 == 0:
            data = bytearray(whole.encode())
            for _ in range(rng.randrange(1, 4)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            file.write_bytes(data)
            what = f"bytes {number}"
        else:
            tree = json.loads(whole)
            what = "; ".join(mutated(tree, rng) for _ in range(rng.randrange(1, 3)))
            file.write_text(json.dumps(tree))
        masks, broken = rng.random() < 0.8, rng.choice(("refuse", "skip"))
        # Said before it is tried: of a crash this is all that is left.
        print(what, file=sys.stderr, flush=True)
        try:
            split, _ = open_coco(CocoPart(train_split="train", val_split="val", broken=broken), root, masks=masks)
            for image, annotations in split:
                read_annotated_image(split, image)
                for annotation in annotations if masks else ():
                    drawn = mask_of(annotation, image["height"], image["width"])
                    assert drawn.shape == (image["height"], image["width"]), what
                    assert set(drawn.ravel().tolist()) <= {0, 1}, what
            ends["read"] += 1
        except DataError as error:
            words = str(error)
            ends["refused" if str(root) in words and words.isprintable() else f"{what}: {words}"] += 1
    print(json.dumps(ends))


def mutated(tree: Any, rng: random.Random) -> str:
    node, path = tree, []
    if rng.random() < 0.8:  # most of what can be wrong is in a single annotation, image or category
        path = [rng.choice(("annotations", "annotations", "images", "categories"))]
        node = tree.get(path[0])
        if not isinstance(node, (dict, list)) or not node:
            node, path = tree, []
    while True:
        key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
        path.append(str(key))
        inner = node[key]
        if not isinstance(inner, (dict, list)) or not inner or rng.random() < 0.1:
            break
        node = inner
    kind = rng.random()
    if kind < 0.15:
        del node[key]
        return f"without {'.'.join(path)}"
    if kind < 0.3 and isinstance(node, list):
        node.append(inner)
        return f"{'.'.join(path)} twice"
    if kind < 0.5 and isinstance(inner, (int, float)):
        node[key] = inner * rng.choice((-1, 0, 2, 1000, 1e6, 10**30))
    else:
        node[key] = rng.choice(VALUES)
    return f"{'.'.join(path)} is {str(node[key])[:60]!r}"


if __name__ == "__main__":
    copy = Path(sys.argv[1]).with_name("fuzzed")
    shutil.copytree(sys.argv[1], copy)
    main(copy, int(sys.argv[2]), int(sys.argv[3]))
