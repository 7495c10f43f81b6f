"""A family outside the package: the example of docs/own-family.md, built, installed and used; and broken ones."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from package_tree import ROOT

EXAMPLE = ROOT / "examples" / "own_family"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the example, which it built from a copy."""
    pytest.importorskip("pip", reason="environments made by uv have none")
    folder = tmp_path_factory.mktemp("own_family")
    shutil.copytree(EXAMPLE, folder / "source", ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--target", folder / "site", folder / "source"], check=True)
    return folder / "site"


def run(site: Path, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own that sees the folder's distributions."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)]), "COLUMNS": "200"}
    return subprocess.run([sys.executable, *words], cwd=cwd, env=env, capture_output=True, text=True, check=False)


def checked(site: Path, program: str, cwd: Path | None = None) -> str:
    done = run(site, "-c", program, cwd=cwd)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def test_costs_are_those_of_timms_network_and_of_a_count_by_hooks(site: Path) -> None:
    checked(
        site,
        """
import sys
import numpy as np
import bsszoo
from bsszoo import Code, Space
from bsszoo.spaces import cost_array
code = Code.parse("mobilenetv1_c24-40-56-96-136_l1-2-1-3-1_stem16_px64")
assert Code.parse(str(code)) == Code.from_dict(code.to_dict()) == code
costs = [bsszoo.cost(code), bsszoo.cost("mobilenetv1_100")]
space = Space.of("mobilenetv1").scaled(0.5)
rows = space.sample(50, 0)
assert cost_array(space, rows).macs.tolist() == [bsszoo.cost(space.code(row)).macs for row in rows]
assert not {"torch", "timm"} & set(sys.modules)  # costs need neither
import timm, torch
from torch import nn
for network, size, cost in (
    (bsszoo.create(code), 64, costs[0]),
    (timm.create_model("mobilenetv1_100"), 224, costs[1]),
):
    macs, outputs = [], []
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(lambda m, _, out: macs.append(out.numel() * m.weight[0].numel()))
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(lambda m, _, out: outputs.append(out.numel()))
    network.eval()(torch.zeros(1, 3, size, size))
    params = sum(p.numel() for p in network.parameters())
    assert (sum(macs), params, sum(outputs)) == (cost.macs, cost.params, cost.activations)
""",
    )


def test_the_network_is_timms_own(site: Path, tmp_path: Path) -> None:
    checked(
        site,
        """
import timm, torch
import bsszoo
from bsszoo.codes.named import named_entries
from bsszoo.models.resolve import resolve
torch.manual_seed(0)
theirs = timm.create_model("mobilenetv1_100", num_classes=7).eval()
ours = bsszoo.create("mobilenetv1_100", num_classes=7).eval()
assert list(ours.state_dict()) == list(theirs.state_dict())
for parameter in theirs.parameters():
    torch.nn.init.normal_(parameter, std=0.1)
ours.load_state_dict(theirs.state_dict(), strict=True)
images = torch.randn(2, 3, 64, 64)
with torch.no_grad():
    assert torch.equal(ours(images), theirs(images))
torch.save(theirs.state_dict(), "net.pth")
recognised = resolve("net.pth")
assert (recognised.entry.name, recognised.num_classes) == ("mobilenetv1_100", 7)
assert resolve("mobilenetv2").code.family == "mobilenetv2"
from timm.models import get_arch_pretrained_cfgs
tags = {cfg.hf_hub_id for cfg in get_arch_pretrained_cfgs("mobilenetv1_100").values()}
assert {tag.repository for tag in named_entries()["mobilenetv1_100"].tags} == tags
features = bsszoo.create("mobilenetv1_c8-16-24-32-40_l1-1-1-1-1", features_only=True).eval()(images)
assert [f.shape[1:] for f in features] == [(8, 32, 32), (16, 16, 16), (24, 8, 8), (32, 4, 4), (40, 2, 2)]
""",
        tmp_path,
    )


def test_weights_are_inherited(site: Path) -> None:
    checked(
        site,
        """
import torch
from torch import nn
import bsszoo
from bsszoo import Code, Space
from bsszoo.models.build import build
from bsszoo.models.inherit import Reference, inherit_weights, is_subnetwork

def trained(text, seed):
    torch.manual_seed(seed)
    network = build(Code.parse(text), num_classes=5).eval()
    for m in network.modules():
        if isinstance(m, nn.BatchNorm2d):
            for tensor in (m.weight, m.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (m.bias, m.running_mean):
                nn.init.uniform_(tensor, -0.3, 0.3)
    return network

images = torch.randn(64, 3, 64, 64, generator=torch.Generator().manual_seed(1))
large, small = "mobilenetv1_c16-24-32-48-64_l1-2-2-3-2", "mobilenetv1_c8-16-24-32-48_l1-2-2-2-1"
whole, part = Code.parse(large), Code.parse(small)
space = Space.subnetworks(whole, num_classes=5)
assert space.largest == whole and is_subnetwork(part, whole) and not is_subnetwork(whole, part)
network = trained(large, 0)
with torch.no_grad():
    wanted = network(images)
    again = trained(large, 1)
    done = inherit_weights(again, whole, network, whole)
    assert (done.inherited, done.blocks) == (done.params, 10)
    assert torch.equal(again(images), wanted)
    # Fitted to itself it stays what it is.
    for labels in (None, torch.arange(64) % 5):
        again = trained(large, 1)
        inherit_weights(again, whole, network, whole, reference=Reference(network, whole, images, labels))
        torch.testing.assert_close(again(images), wanted, rtol=1e-3, atol=1e-3)
        # A narrower and shallower one comes nearer by the fit.
        errors = []
        for reference in (None, Reference(network, whole, images, labels)):
            torch.manual_seed(2)
            cut = build(part, num_classes=5)
            inherit_weights(cut, part, network, whole, reference=reference)
            errors.append(float(((cut.eval()(images) - wanted) ** 2).mean() / wanted.var()))
        assert errors[1] < 0.5 * errors[0], errors
    # A wider one begins with the function that it inherits.
    wide = "mobilenetv1_c24-32-40-64-80_l1-2-2-3-2"
    grown = trained(wide, 3)
    inherit_weights(grown, Code.parse(wide), network, whole)
    torch.testing.assert_close(grown(images), wanted, rtol=1e-4, atol=1e-4)
    # Channels that nothing reads, and which normalisation makes 0, go first: in each block its own ones.
    blocks = [b for stage in network.blocks for b in stage]
    keep = []
    for i, block in enumerate(blocks):
        n = block.conv_pw.out_channels
        dead = torch.randperm(n, generator=torch.Generator().manual_seed(i))[: n // 4]
        block.bn2.weight[dead], block.bn2.bias[dead] = 0, 0
        if i + 1 < len(blocks):
            after = blocks[i + 1]
            after.bn1.weight[dead], after.bn1.bias[dead] = 0, 0
    wanted = network(images)
    narrower = "mobilenetv1_c12-18-24-36-48_l1-2-2-3-2"
    cut = trained(narrower, 4)
    inherit_weights(cut, Code.parse(narrower), network, whole)
    torch.testing.assert_close(cut(images), wanted, rtol=1e-4, atol=1e-4)
""",
    )


def test_the_commands_take_it(site: Path, tmp_path: Path) -> None:
    shown = run(site, "-m", "bsszoo", "show", "mobilenetv1_100", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "Separable 3x3" in shown.stdout
    assert "mobilenetv1_c64-128-256-512-1024_l1-2-2-6-2" in shown.stdout
    listed = run(site, "-m", "bsszoo", "list", "--family", "mobilenetv1", "--json", cwd=tmp_path)
    assert [row["name"] for row in json.loads(listed.stdout)] == ["mobilenetv1_100"]
    text = "mobilenetv1_c16-24-32-48-64_l1-2-2-2-1_px32"
    words = ["compress", text, "--flops", "60%", "--trials", "4", "--batch", "2", "--no-measure", "--out", "run"]
    done = run(site, "-m", "bsszoo", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["best"]["code"].startswith("mobilenetv1_c")
    checked(
        site,
        f"""
import json, bsszoo
best = json.load(open("run/result.json"))["best"]["code"]
cost = bsszoo.cost(best)
assert cost.macs <= 0.6 * bsszoo.cost({text!r}).macs
assert sum(p.numel() for p in bsszoo.create(best).parameters()) == cost.params
from bsszoo.codes.detector import detector_cost
from bsszoo.models.detector import build_detector
from bsszoo.models.names import find_detector
detector = find_detector("retinanet_fpn32_" + {text!r}.removesuffix("_px32"))
assert sum(p.numel() for p in build_detector(detector).parameters()) == detector_cost(detector).params
from bsszoo.latency.table import measure_latency_table
from bsszoo import Space
space = Space.subnetworks(bsszoo.Code.parse("mobilenetv1_c8-8-8-8-8_l1-1-1-1-1_stem8_px32"))
assert measure_latency_table(space, seconds_each=0.0, networks=0).of(space.smallest) > 0
""",
        tmp_path,
    )


def distribution(folder: Path, name: str, entry: str, module: str) -> None:
    """An installed distribution with one family."""
    (folder / f"{name}.py").write_text(module)
    info = folder / f"{name}-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text(f"[bsszoo.families]\n{entry}\n")


NAMED = "from dataclasses import replace\nfrom bsszoo.codes.families.resnet18 import RESNET18\n"
# What is installed (its entry point and module), and what the error says.
BROKEN: dict[str, tuple[str, str, str]] = {
    "fails to import": (
        "plain = broken:PLAIN",
        "raise OSError('no such\\n library')",
        "The family 'plain' of the distribution broken 1.5 cannot be imported from 'broken:PLAIN' "
        "(OSError: no such library). Mend or uninstall it.",
    ),
    "has no such object": (
        "plain = broken:PLAIN",
        "",
        "cannot be imported from 'broken:PLAIN' (AttributeError: module 'broken' has no attribute 'PLAIN')",
    ),
    "is no family": ("plain = broken:PLAIN", "PLAIN = 3", "of the distribution broken 1.5 is 3; an entry point of"),
    "is named otherwise": (
        "plain = broken:PLAIN",
        f"{NAMED}PLAIN = replace(RESNET18, name='other')",
        "is named 'other'; its entry point has to have the same name",
    ),
    "has a name that is no name": (
        "My-Family = broken:PLAIN",
        f"{NAMED}PLAIN = replace(RESNET18, name='My-Family')",
        "has a name that no code's text can begin with",
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_family_is_named_and_left_out(how: str, tmp_path: Path) -> None:
    entry, module, words = BROKEN[how]
    distribution(tmp_path, "broken", entry, module)
    name = entry.split(" = ")[0]
    program = f"""
import warnings
import bsszoo
from bsszoo.codes import FAMILIES
from bsszoo.codes.families import family_of
from bsszoo.errors import FamilyError
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    assert bsszoo.cost("resnet18").macs == 1814073344
    bsszoo.list_models()
    assert {name!r} not in dict(FAMILIES.items())
print(*[w.message for w in seen], sep="\\n")
for _ in range(2):
    try:
        family_of({name!r})
    except FamilyError as error:
        print(error)
"""
    lines = checked(tmp_path, program).splitlines()
    assert len(lines) == 3
    assert all(words in line for line in lines), lines


def taken_by_the_package(folder: Path) -> None:
    distribution(folder, "first", "resnet50 = first:F", f"{NAMED}F = replace(RESNET18, name='resnet50')")


def taken_by_another(folder: Path) -> None:
    for name in ("first", "second"):
        distribution(folder, name, f"plain = {name}:F", f"{NAMED}F = replace(RESNET18, name='plain', published={{}})")


def network_taken(folder: Path) -> None:
    distribution(folder, "first", "plain = first:F", f"{NAMED}F = replace(RESNET18, name='plain')")


@pytest.mark.parametrize(
    ("installed", "words"),
    [
        (
            taken_by_the_package,
            "The family 'resnet50' of the distribution first 1.5 has a name that is taken: bsszoo itself has",
        ),
        (
            taken_by_another,
            "'plain' of the distribution second 1.5 has a name that is taken: the distribution first 1.5 has one",
        ),
        (network_taken, "The family 'plain' lists a network 'resnet34', a name that is taken: the family 'resnet18'"),
    ],
)
def test_a_name_that_is_taken_is_an_error_and_the_package_is_imported(
    installed: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    installed(tmp_path)
    checked(tmp_path, "import bsszoo; assert bsszoo.Code.parse('resnet18{64,128,256,512,2,2,2,2}').depths[0] == 2")
    done = run(tmp_path, "-m", "bsszoo", "list")
    assert done.returncode == 2
    assert words in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_published_network_that_timm_has_not_is_registered_in_timm(tmp_path: Path) -> None:
    module = (
        "from bsszoo.codes.families.base import Published\n"
        f"{NAMED}NET = Published((8, 8, 8, 8, 1, 1, 1, 1), 'Plain-1', timm=False)\n"
        "F = replace(RESNET18, name='plain', original=NET.entries, published={'plain1': NET})"
    )
    distribution(tmp_path, "first", "plain = first:F", module)
    program = "import bsszoo.nets, timm; print(sum(p.numel() for p in timm.create_model('plain1').parameters()))"
    params = checked(tmp_path, program + "\nprint(bsszoo.cost('plain_c8-8-8-8_l1-1-1-1').params)").split()
    assert params[0] == params[1]
