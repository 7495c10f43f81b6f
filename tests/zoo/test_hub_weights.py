"""Weights from a Hub: there, not there, not reachable, of another network, broken. The Hub is a local server.

huggingface_hub reads HF_ENDPOINT when it is imported, so the package runs in processes of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save
from timm.models import save_for_hf
from zoo.local_hub import COMMIT, LocalHub

from bsszoo.codes.named import named_entries
from bsszoo.nets import build

CHILD = '''
import dataclasses, json, sys, time
import torch
import bsszoo.nets
from bsszoo.errors import BssZooError
from bsszoo.zoo.entry import find
from bsszoo.zoo.registry import create
from bsszoo.zoo.weights import fetch

torch.set_num_threads(1)

def checked_sum(name, sha256):
    entry = find(name)
    tag = dataclasses.replace(entry.tags[0], sha256=sha256)
    fetch(True, entry.code, dataclasses.replace(entry, tags=(tag,)))

def through_timm(name):
    import timm
    return timm.create_model(name, pretrained=True)

for line in sys.stdin:
    case = json.loads(line)
    started, out = time.monotonic(), {}
    try:
        action = {"create": create, "timm": through_timm, "sum": checked_sum}[case["do"]]
        net = action(*case["args"], **case.get("kwargs", {}))
        if net is not None:
            out["sum"] = sum(p.double().sum().item() for p in net.parameters())
            out["cfg"] = {k: net.default_cfg.get(k) for k in ("architecture", "hf_hub_id", "mean", "crop_pct", "tag")}
    except Exception as error:
        out["error"], out["text"] = type(error).__name__, str(error)
        out["ours"] = isinstance(error, BssZooError)
    out["seconds"] = time.monotonic() - started
    print(json.dumps(out), flush=True)
'''


def run(cases: dict[str, dict[str, Any]], endpoint: str, home: Path, **env: str) -> dict[str, dict[str, Any]]:
    """What each case gives in one fresh process that talks to the Hub at this address."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD], check=True, text=True, timeout=300, stdout=subprocess.PIPE,
        input="".join(json.dumps(case) + "\n" for case in cases.values()),
        env={**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1",
             "NO_PROXY": "127.0.0.1", **env},
    )
    return dict(zip(cases, map(json.loads, done.stdout.splitlines()), strict=True))


def create(*args: Any, **kwargs: Any) -> dict[str, Any]:
    return {"do": "create", "args": args, "kwargs": kwargs}


NAME = "mobilenetv2_130m_autobss"
REPOSITORY = f"bsszoo/{NAME}.in1k"
RESNET = "timm/resnet18.a1_in1k"
OTHER = "mobilenetv2_130m_uniform"


def total(net: torch.nn.Module) -> float:
    return sum(p.double().sum().item() for p in net.parameters())


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> LocalHub:
    torch.manual_seed(0)
    hub = LocalHub()
    folder = tmp_path_factory.mktemp("saved")
    net = build(named_entries()[NAME].code, pretrained_cfg={"crop_pct": 0.9})
    save_for_hf(net, str(folder), safe_serialization=True)
    saved = {file.name: file.read_bytes() for file in folder.iterdir()}
    hub.files[REPOSITORY] = saved
    hub.files["someone/copy"] = saved
    hub.files["someone/empty"] = {"config.json": saved["config.json"]}
    hub.files["someone/broken"] = {"model.safetensors": b"not a safetensors file"}
    hub.gated.add("someone/gated")
    resnet = timm.create_model("resnet18")
    hub.files[RESNET] = {"model.safetensors": save(resnet.state_dict())}
    hub.totals = {NAME: total(net), "resnet18": total(resnet)}  # type: ignore[attr-defined]
    return hub


ONLINE = {
    "published": create(NAME, pretrained=True),
    "tag": create(f"{NAME}.in1k", pretrained=True),
    "tag by argument": create(NAME, pretrained="in1k"),
    "by timm": {"do": "timm", "args": [NAME]},
    "source": create(NAME, pretrained="hf-hub:someone/copy"),
    "revision": create(NAME, pretrained="hf-hub:someone/copy@v1"),
    "commit": create(NAME, pretrained=f"hf-hub:someone/copy@{COMMIT}"),
    "original": create("resnet18", pretrained=True),
    "original by code": create("resnet18{64,128,256,512,2,2,2,2}", pretrained=True),
    "features": create("resnet18", pretrained=True, features_only=True, out_indices=[1]),
    "not published": create(OTHER, pretrained=True),
    "no tag": create("resnet18", pretrained="a9_in1k"),
    "no repository": create(NAME, pretrained="hf-hub:someone/nothing"),
    "no revision": create(NAME, pretrained="hf-hub:someone/copy@v9"),
    "no weights": create(NAME, pretrained="hf-hub:someone/empty"),
    "gated": create(NAME, pretrained="hf-hub:someone/gated"),
    "broken": create(NAME, pretrained="hf-hub:someone/broken"),
    "other code": create(OTHER, pretrained="hf-hub:someone/copy"),
    "good sum": {"do": "sum", "args": [NAME, None]},
    "bad sum": {"do": "sum", "args": [NAME, "0" * 64]},
}


@pytest.fixture(scope="module")
def runs(hub: LocalHub, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, dict[str, Any]]]:
    """The cases with the Hub, then without it and with the first run's cache, then without both."""
    home, bare = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("bare")
    with hub.serve() as endpoint:
        online = run(ONLINE, endpoint, home)
    # The server is gone: the same address now refuses connections.
    cases = {"searched": create(NAME, pretrained=True), "original": create("resnet18", pretrained=True)}
    return {
        "online": online,
        "cached": run(cases, endpoint, home),
        "offline": run(cases, endpoint, home, HF_HUB_OFFLINE="1"),
        "unreachable": run(cases, endpoint, bare),
    }


@pytest.mark.parametrize("case", ["published", "tag", "tag by argument", "source", "revision", "commit"])
def test_published_weights_load(case: str, runs: Any, hub: LocalHub) -> None:
    found = runs["online"][case]
    assert "error" not in found, found.get("text")
    assert found["sum"] == pytest.approx(hub.totals[NAME], rel=1e-12)
    assert found["cfg"]["architecture"] == NAME
    if case != "by timm":
        assert found["cfg"]["crop_pct"] == 0.9, "the input that the weights were saved with"


def test_the_repository_is_said_in_the_configuration(runs: Any) -> None:
    assert runs["online"]["published"]["cfg"]["hf_hub_id"] == REPOSITORY
    assert runs["online"]["revision"]["cfg"]["hf_hub_id"] == "someone/copy@v1"


@pytest.mark.parametrize("case", ["original", "original by code"])
def test_an_original_takes_timms_weights(case: str, runs: Any, hub: LocalHub) -> None:
    found = runs["online"][case]
    assert found["sum"] == pytest.approx(hub.totals["resnet18"], rel=1e-12)
    assert (found["cfg"]["hf_hub_id"], found["cfg"]["tag"], found["cfg"]["crop_pct"]) == (RESNET, "a1_in1k", 0.95)
    assert runs["online"]["features"]["sum"] != found["sum"]


@pytest.mark.parametrize(("case", "said"), [
    ("not published", [f"bsszoo/{OTHER}.in1k", "Nobody has published", "PATH/model.safetensors", "'mobilenetv2'"]),
    ("no repository", ["someone/nothing", "no such repository", "hf-hub:ORG/NAME"]),
    ("no revision", ["no revision 'v9'"]),
    ("no weights", ["someone/empty has no weights", "model.safetensors"]),
    ("gated", ["restricted", "log in"]),
    ("broken", ["Cannot read hf-hub:someone/broken"]),
    ("other code", ["holds the weights of mobilenetv2_c16-20-40-56-96-288", "not of mobilenetv2_c16-20-40-56-96-192"]),
    ("bad sum", ["sha256", "0" * 64]),
    ("no tag", ["no weights tagged 'a9_in1k'", "'a1_in1k'"]),
])
def test_what_is_not_there_is_one_clear_error(case: str, said: list[str], runs: Any) -> None:
    found = runs["online"][case]
    assert found["error"] == ("UnknownNameError" if case == "no tag" else "WeightsError")
    for words in said:
        assert words in found["text"]


def test_a_right_checksum_passes(runs: Any) -> None:
    assert "error" not in runs["online"]["good sum"]


@pytest.mark.parametrize("state", ["cached", "offline"])
def test_without_network_the_cache_serves(state: str, runs: Any, hub: LocalHub) -> None:
    for case, name in (("searched", NAME), ("original", "resnet18")):
        found = runs[state][case]
        assert "error" not in found, found.get("text")
        assert found["sum"] == pytest.approx(hub.totals[name], rel=1e-12)


@pytest.mark.parametrize("case", ["searched", "original"])
def test_an_unreachable_hub_is_a_quick_clear_error(case: str, runs: Any) -> None:
    found = runs["unreachable"][case]
    assert found["error"] == "WeightsError"
    assert "cannot be reached" in found["text"]
    assert "http://127.0.0.1" in found["text"]
    assert "pretrained='PATH/model.safetensors'" in found["text"]
    assert found["seconds"] < 10, "huggingface_hub alone repeats for about 24 s"


@pytest.mark.network
def test_the_real_hub() -> None:
    from bsszoo.zoo.registry import create as create_here

    net = create_here("resnet18", pretrained=True).eval()
    theirs = timm.create_model("resnet18", pretrained=True).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(net(x), theirs(x))


def test_timm_itself_does_not_ask_where_nothing_is_published(runs: Any) -> None:
    """The zoo records no published weights of this name, so timm is given no source and answers at once."""
    found = runs["online"]["by timm"]
    assert found["error"] == "RuntimeError"
    assert "No pretrained weights exist" in found["text"]
