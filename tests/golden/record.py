"""What must not change while the code moves: ``python tests/golden/record.py`` writes it, a test compares.

A change of a figure that is meant is recorded anew in the commit that makes it, and said in the CHANGELOG.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import bsszoo
from bsszoo.codes import Code, code_cost, depth, stage_costs
from bsszoo.codes.detector import DetectorHead
from bsszoo.models.build import build
from bsszoo.models.names import resolve_code
from bsszoo.report.commands import commands
from bsszoo.spaces import Space, cost_array

FILE = Path(__file__).with_name("unchanged.json")
FAMILIES = ("resnet18", "resnet50", "mobilenetv2", "efficientnet_b0", "efficientnet_b1")


def digest(value: Any) -> str:
    """A short checksum of what JSON can hold."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def drawn(family: str, scale: float = 1.0, n: int = 12) -> list[Code]:
    """Random codes of a family's grid."""
    space = Space.of(family) if scale == 1 else Space.of(family).scaled(scale)
    return [space.code(row) for row in space.sample(n, np.random.default_rng(7))]


def names() -> list[str]:
    """The names of the paper's networks."""
    return bsszoo.list_models()


def costs() -> dict[str, Any]:
    """The costs of the named networks, and of random codes at two scales and an odd input."""
    found: dict[str, Any] = {}
    for name in names():
        cost = bsszoo.cost(name)
        found[name] = [cost.macs, cost.params, cost.activations]
    for name in ("maskrcnn_resnet50", "retinanet_resnet50_autobss", "maskrcnn_fpn64_resnet18"):
        cost = bsszoo.cost(name)
        found[name] = [cost.macs, cost.params, cost.activations]
    for family in FAMILIES:
        for scale in (1.0, 0.6):
            codes = drawn(family, scale)
            rows = [
                [str(c), *map(int, vars_of(code_cost(c, (97, 130), num_classes=10, in_chans=1))), depth(c)]
                for c in codes
            ]
            stages = [
                [[s.number, s.name, s.width, s.depth, s.inner, list(s.size), s.cost.macs] for s in stage_costs(c)]
                for c in codes
            ]
            grid = Space.of(family) if scale == 1 else Space.of(family).scaled(scale)
            many = cost_array(grid, np.array([c.entries for c in codes]))
            found[f"{family} at {scale}"] = [
                rows[0],
                digest(rows),
                digest(stages),
                digest([x.tolist() for x in many]),
                grid.size,
                digest([[str(v) for v in axis] for axis in grid.axes]),
            ]
    return found


def vars_of(cost: bsszoo.Cost) -> tuple[int, int, int]:
    """The figures of a cost."""
    return cost.macs, cost.params, cost.activations


def tensors() -> dict[str, str]:
    """Checksums of the names and shapes of the tensors of named networks and of random codes."""
    found = {}
    for family in FAMILIES:
        found[family] = digest([_state(c) for c in drawn(family, 0.6, 4)])
    for name in names():
        found[name] = digest(_state(resolve_code(name)))
    return found


def _state(code: Code) -> list[Any]:
    return [[k, list(v.shape)] for k, v in build(code, device="meta").state_dict().items()]


def searches() -> dict[str, Any]:
    """The codes that are suggested, and the figures of a run's result."""
    found: dict[str, Any] = {}
    for family, mode, seed in (*((f, "default", 0) for f in FAMILIES[:4]), *((f, "paper", 1) for f in FAMILIES[1:3])):
        with tempfile.TemporaryDirectory() as folder:
            result = bsszoo.compress(
                family, flops="60%", trials=10, batch=4, measure=False, search=mode, seed=seed, out=f"{folder}/run"
            )
            data = json.loads((Path(folder) / "run" / "result.json").read_text(encoding="utf-8"))
            found[f"{family} {mode} {seed}"] = {
                "suggested": [str(t.code) for t in result.trials],
                "networks": [
                    [
                        n["role"],
                        n["code"],
                        n["macs"],
                        n["params"],
                        n["activations"],
                        None if n["score"] is None else round(n["score"], 6),
                    ]
                    for n in data["networks"]
                ],
                "budget": data["budget"],
                "scale": data["scale"],
                "candidates": data["candidates"],
            }
    return found


def printed() -> dict[str, list[str]]:
    """The commands that are printed for a code."""
    code = Code.parse("mobilenetv2{24,40,64,96,120,240,4,3,2,3,6,2,3,6,6,3,6,6}")
    head = DetectorHead("maskrcnn")
    caffe = Code.parse("resnet50_c256-512-1024-2048_l3-4-6-3_b64-128-256-512_px800_stride1x1")
    return {"classifier": [c.text for c in commands(code)], "detector": [c.text for c in commands(caffe, None, head)]}


def everything() -> dict[str, Any]:
    """All of it."""
    return {"names": names(), "costs": costs(), "tensors": tensors(), "searches": searches(), "printed": printed()}


if __name__ == "__main__":
    FILE.write_text(json.dumps(everything(), indent=1) + "\n", encoding="utf-8")
