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
from local_hub import LocalHub
from timm.models import save_for_hf

from bsszoo.codes.code import Code
from bsszoo.codes.named import named_entries
from bsszoo.models.build import build

CHILD = '''
import dataclasses, json, os, sys, time
import torch
import bsszoo.nets
from bsszoo.errors import BssZooError
from bsszoo.models.names import find
from bsszoo.models.create import create
from bsszoo.models.weights import fetch

torch.set_num_threads(1)

def checked_sum(name, sha256):
    entry = find(name)
    tag = dataclasses.replace(entry.tags[0], sha256=sha256)
    fetch(True, entry.code, dataclasses.replace(entry, tags=(tag,)))

def through_timm(name):
    import timm
    return timm.create_model(name, pretrained=True)

def as_compressed(name):
    """The network that a compression with images starts from."""
    from bsszoo.models.resolve import resolve, with_weights
    found = with_weights(resolve(name), None)
    network = create(found.code, pretrained=found.source)
    network.default_cfg = {**network.default_cfg, "crop_pct": found.config.get("crop_pct")}
    return network

def broken_in_the_cache(source):
    """Weights whose copy in the cache was cut off, as by a full disk: refused once, then fetched anew."""
    from huggingface_hub import hf_hub_download
    path = hf_hub_download(source.removeprefix("hf-hub:"), "model.safetensors")
    with open(path, "r+b") as file:
        file.truncate(1000)
    try:
        create(source, pretrained=True)
    except BssZooError as error:
        print(error, file=sys.stderr)
        assert "Cannot read" in str(error) and "fetches it again" in str(error)
    else:
        raise AssertionError("it was loaded")
    return create(source, pretrained=True)

for line in sys.stdin:
    case = json.loads(line)
    started, out = time.monotonic(), {}
    os.environ.pop("BSSZOO_HUB_ORG", None)
    os.environ.update(case.get("env", {}))
    try:
        action = {"create": create, "timm": through_timm, "sum": checked_sum, "cut": broken_in_the_cache,
                  "compressed": as_compressed}[case["do"]]
        net = action(*case["args"], **case.get("kwargs", {}))
        if net is not None:
            out["sum"] = sum(p.double().sum().item() for p in net.parameters())
            out["classes"] = getattr(net, "num_classes", None)
            out["cfg"] = {k: net.default_cfg.get(k) for k in ("architecture", "hf_hub_id", "mean", "crop_pct", "tag")}
    except Exception as error:
        out["error"], out["text"] = type(error).__name__, str(error)
        out["ours"] = isinstance(error, BssZooError)
    out["seconds"] = time.monotonic() - started
    print(json.dumps(out), flush=True)
'''


class User:
    """A process that talks to the Hub at an address, with a cache in ``home``."""

    def __init__(self, endpoint: str, home: Path, **env: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", CHILD],
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={
                **os.environ,
                "HF_ENDPOINT": endpoint,
                "HF_HOME": str(home),
                "HF_HUB_DISABLE_XET": "1",
                "NO_PROXY": "127.0.0.1",
                **env,
            },
        )

    def run(self, cases: dict[str, dict[str, Any]], **settings: Any) -> dict[str, dict[str, Any]]:
        """What each case gives; ``settings`` go to those that create a network."""
        return {
            name: self._ask({**case, "kwargs": {**case.get("kwargs", {}), **settings}}) for name, case in cases.items()
        }

    def _ask(self, case: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(case) + "\n")
        self._process.stdin.flush()
        result: dict[str, Any] = json.loads(self._process.stdout.readline())
        return result

    def end(self) -> None:
        """Let it end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait() == 0


def create(*args: Any, **kwargs: Any) -> dict[str, Any]:
    return {"do": "create", "args": args, "kwargs": kwargs}


NAME = "mobilenetv2_130m_autobss"
REPOSITORY = f"bsszoo/{NAME}.in1k"
RESNET = "timm/resnet18.a1_in1k"
TINY = "mobilenetv2_c12-20-28-28-40-84_l1-2-1-1-1-1_t3-1-3-6-2-3_stem10_stage2-6x2"
OTHER = "mobilenetv2_130m_uniform"
# Of a family, and no name of the zoo.
OUTSIDE = "mobilenetv2_050.lamb_in1k"


def saved_by_timm(network: Any, folder: Path) -> dict[str, bytes]:
    """A repository's files as timm's have them: no code in the config.json."""
    save_for_hf(network, str(folder), safe_serialization=True)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


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
    hub.add(REPOSITORY, saved)
    copy = hub.add("someone/copy", saved)
    copy.refs["v1"] = copy.refs["main"]
    hub.add("someone/empty", {"config.json": saved["config.json"]})
    hub.add("someone/broken", {"model.safetensors": b"not a safetensors file"})
    hub.add("someone/truncated", {**saved, "model.safetensors": saved["model.safetensors"][:-1000]})
    hub.add("someone/pickled", {"config.json": saved["config.json"], "pytorch_model.bin": b"would run anything"})
    for name, text in {
        "nonsense": b'{"architecture": "bsszoo_code", "model_args": {"code": "x"}}',
        "foreign": b'{"architecture": "swin_tiny_patch4_window7_224", "pretrained_cfg": {}}',
        "unreadable": b"[",
    }.items():
        hub.add(f"someone/{name}", {**saved, "config.json": text})
    hub.add("someone/cut", saved)
    hub.add("someone/half", saved)
    hub.add("someone/forbidden", saved)
    hub.add("someone/gated", saved, gated=True)
    hub.add("someone/hidden", saved, private=True)
    commit = hub.repositories["someone/cut"].refs["main"]
    hub.faults = {
        f"GET /someone/cut/resolve/{commit}/model.safetensors": "cut",
        "HEAD /someone/forbidden": 403,
        "HEAD /someone/half/resolve/main/config.json": 507,
    }
    # A custom network, which no version of bsszoo has by name, and a named one for custom data.
    custom = build(Code.parse(TINY), num_classes=7, in_chans=1)
    save_for_hf(custom, str(folder), safe_serialization=True)
    hub.add("acme/shoes", {file.name: file.read_bytes() for file in folder.iterdir()})
    # A name that timm has and the zoo has not is the organisation's first.
    hub.add("acme/regnety_040", {file.name: file.read_bytes() for file in folder.iterdir()})
    ten = build(named_entries()[NAME].code, num_classes=10)
    save_for_hf(ten, str(folder), safe_serialization=True)
    hub.add(f"acme/{NAME}.in1k", {file.name: file.read_bytes() for file in folder.iterdir()})
    hub.add(f"acme/{NAME}.shoes10", {file.name: file.read_bytes() for file in folder.iterdir()})
    resnet = timm.create_model("resnet18")
    hub.add(RESNET, saved_by_timm(resnet, folder))
    outside = timm.create_model(OUTSIDE)
    hub.add(f"timm/{OUTSIDE}", saved_by_timm(outside, folder))
    hub.totals = {  # type: ignore[attr-defined]
        NAME: total(net),
        "resnet18": total(resnet),
        "outside": total(outside),
        "shoes": total(custom),
        "ten": total(ten),
    }
    hub.commit = hub.repositories["someone/copy"].refs["main"]  # type: ignore[attr-defined]
    return hub


def own_organisation(name: str = NAME, **kwargs: Any) -> dict[str, Any]:
    return create(name, pretrained=True, org="acme", **kwargs)


ONLINE = {
    "published": create(NAME, pretrained=True),
    "tag": create(f"{NAME}.in1k", pretrained=True),
    "tag by argument": create(NAME, pretrained="in1k"),
    "by timm": {"do": "timm", "args": [NAME]},
    "source": create(NAME, pretrained="hf-hub:someone/copy"),
    "revision": create(NAME, pretrained="hf-hub:someone/copy@v1"),
    "by its repository": create("hf-hub:someone/copy", pretrained=True),
    "by its repository and revision": create("hf-hub:someone/copy@v1", pretrained=True),
    "broken in the cache": {"do": "cut", "args": ["hf-hub:someone/copy"]},
    "unknown to bsszoo": create("hf-hub:acme/shoes", pretrained=True),
    "unknown to bsszoo, without its weights": create("hf-hub:acme/shoes"),
    "unknown to bsszoo, other classes": create("hf-hub:acme/shoes", pretrained=True, num_classes=3, in_chans=1),
    "organisation": own_organisation(),
    "organisation's tag": own_organisation(f"{NAME}.shoes10"),
    "organisation's tag by argument": create(NAME, pretrained="shoes10", org="acme"),
    "organisation's own name": own_organisation("shoes"),
    "organisation's own by a name of timm's": own_organisation("regnety_040"),
    "organisation, an original": own_organisation("resnet18"),
    "organisation without it": own_organisation("boots"),
    "organisation that is none": create(NAME, pretrained=True, org="../acme"),
    "original": create("resnet18", pretrained=True),
    "original by code": create("resnet18{64,128,256,512,2,2,2,2}", pretrained=True),
    "features": create("resnet18", pretrained=True, features_only=True, out_indices=[1]),
    "compressed by a tag": {"do": "compressed", "args": ["resnet18.a1_in1k"]},
    "compressed outside the zoo": {"do": "compressed", "args": [OUTSIDE]},
    "compressed, searched": {"do": "compressed", "args": [f"{NAME}.in1k"]},
    "not published": create(OTHER, pretrained=True),
    "no tag": create("resnet18", pretrained="a9_in1k"),
    "no repository": create(NAME, pretrained="hf-hub:someone/nothing"),
    "no revision": create(NAME, pretrained="hf-hub:someone/copy@v9"),
    "no weights": create(NAME, pretrained="hf-hub:someone/empty"),
    "gated": create(NAME, pretrained="hf-hub:someone/gated"),
    "broken": create(NAME, pretrained="hf-hub:someone/broken"),
    "truncated": create(NAME, pretrained="hf-hub:someone/truncated"),
    "pickled": create(NAME, pretrained="hf-hub:someone/pickled"),
    "hidden": create(NAME, pretrained="hf-hub:someone/hidden"),
    "forbidden": create(NAME, pretrained="hf-hub:someone/forbidden"),
    "config.json in trouble": create(NAME, pretrained="hf-hub:someone/half"),
    "code that is none": create("hf-hub:someone/nonsense", pretrained=True),
    "another library's": create("hf-hub:someone/foreign", pretrained=True),
    "config.json that is none": create("hf-hub:someone/unreadable", pretrained=True),
    "no config.json": create("hf-hub:someone/broken", pretrained=True),
    "leaves its folder": create(NAME, pretrained="hf-hub:../../etc"),
    "leaves its folder by dots": create(NAME, pretrained="hf-hub:someone/.."),
    "leaves its folder by revision": create(NAME, pretrained="hf-hub:someone/copy@../../x"),
    "leaves its folder by root": create(NAME, pretrained="hf-hub:/etc/passwd"),
    "other code": create(OTHER, pretrained="hf-hub:someone/copy"),
    "good sum": {"do": "sum", "args": [NAME, None]},
    "bad sum": {"do": "sum", "args": [NAME, "0" * 64]},
    "after a bad sum": create(NAME, pretrained=True),
}


@pytest.fixture(scope="module")
def runs(hub: LocalHub, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, dict[str, Any]]]:
    """The cases with the Hub, then without it and with the first run's cache, then without both."""
    home, bare = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("bare")
    with hub.serve() as endpoint:
        user = User(endpoint, home)
        by_commit = create(NAME, pretrained=f"hf-hub:someone/copy@{hub.commit}")  # type: ignore[attr-defined]
        online = user.run({**ONLINE, "commit": by_commit, "again": ONLINE["source"]})
        breaks_off = user.run({"cut": create(NAME, pretrained="hf-hub:someone/cut")}, cache_dir=str(bare))
        hub.faults.clear()
        breaks_off |= user.run({"whole": create(NAME, pretrained="hf-hub:someone/cut")}, cache_dir=str(bare))
        of_acme = {"org": create(NAME, pretrained=True), "name": create("shoes", pretrained=True)}
        named = user.run({name: {**case, "env": {"BSSZOO_HUB_ORG": "acme"}} for name, case in of_acme.items()})
    user.end()
    # The server is gone: the same address now refuses connections, of a process that has none open.
    cases = {"searched": create(NAME, pretrained=True), "original": create("resnet18", pretrained=True)}
    user, offline = User(endpoint, home), User(endpoint, home, HF_HUB_OFFLINE="1")
    result = {
        "online": online,
        "breaks off": breaks_off,
        "organisation by environment": named,
        "cached": user.run(cases),
        "offline": offline.run(cases),
        "unreachable": user.run(cases, cache_dir=str(bare)),
    }
    user.end()
    offline.end()
    return result


@pytest.mark.parametrize(
    "case",
    [
        "published",
        "tag",
        "tag by argument",
        "source",
        "revision",
        "commit",
        "by its repository",
        "by its repository and revision",
        "broken in the cache",
        "again",
        "after a bad sum",
    ],
)
def test_published_weights_load(case: str, runs: Any, hub: LocalHub) -> None:
    result = runs["online"][case]
    assert "error" not in result, result.get("text")
    assert result["sum"] == pytest.approx(hub.totals[NAME], rel=1e-12)
    assert result["cfg"]["architecture"] == NAME
    if case != "by timm":
        assert result["cfg"]["crop_pct"] == 0.9, "the input that the weights were saved with"


def test_the_repository_is_said_in_the_configuration(runs: Any) -> None:
    assert runs["online"]["published"]["cfg"]["hf_hub_id"] == REPOSITORY
    assert runs["online"]["revision"]["cfg"]["hf_hub_id"] == "someone/copy@v1"


@pytest.mark.parametrize(
    ("case", "name"), [("by a tag", "resnet18"), ("outside the zoo", "outside"), (", searched", NAME)]
)
def test_a_compression_starts_from_published_weights(case: str, name: str, runs: Any, hub: LocalHub) -> None:
    result = runs["online"][f"compressed{'' if case[0] == ',' else ' '}{case}"]
    assert "error" not in result, result.get("text")
    assert result["sum"] == pytest.approx(hub.totals[name], rel=1e-12)  # type: ignore[attr-defined]
    if name == "resnet18":
        assert result["cfg"]["crop_pct"] == 0.95, "as timm's config.json says"


@pytest.mark.parametrize("case", ["original", "original by code"])
def test_an_original_takes_timms_weights(case: str, runs: Any, hub: LocalHub) -> None:
    result = runs["online"][case]
    assert result["sum"] == pytest.approx(hub.totals["resnet18"], rel=1e-12)
    assert (result["cfg"]["hf_hub_id"], result["cfg"]["tag"], result["cfg"]["crop_pct"]) == (RESNET, "a1_in1k", 0.95)
    assert runs["online"]["features"]["sum"] != result["sum"]


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("not published", [f"bsszoo/{OTHER}.in1k", "Nobody has published", "PATH/model.safetensors", "'mobilenetv2'"]),
        ("no repository", ["someone/nothing", "no such repository", "hf-hub:ORG/NAME"]),
        ("no revision", ["no revision 'v9'"]),
        ("no weights", ["someone/empty has no weights", "model.safetensors"]),
        ("gated", ["restricted", "log in"]),
        ("broken", ["Cannot read hf-hub:someone/broken"]),
        ("truncated", ["Cannot read hf-hub:someone/truncated", "fetches it again"]),
        ("pickled", ["pytorch_model.bin, a pickle", "only model.safetensors is taken"]),
        ("hidden", ["no such repository, or it is private"]),
        ("forbidden", ["does not let you read", "403", "HF_TOKEN"]),
        ("config.json in trouble", ["Cannot fetch hf-hub:someone/half", "507"]),
        ("code that is none", ["config.json of hf-hub:someone/nonsense names an impossible code"]),
        (
            "another library's",
            ["names no block stacking style code", "swin_tiny_patch4_window7_224", "timm.create_model"],
        ),
        ("config.json that is none", ["config.json of hf-hub:someone/unreadable is broken"]),
        ("no config.json", ["has no config.json", "bsszoo push"]),
        ("leaves its folder", ["'../../etc' names no Hub repository"]),
        ("leaves its folder by dots", ["names no Hub repository"]),
        ("leaves its folder by revision", ["names no Hub repository"]),
        ("leaves its folder by root", ["names no Hub repository"]),
        ("organisation without it", ["no model 'boots' in the zoo", "And acme has no such network"]),
        ("organisation that is none", ["org is '../acme'", "no name of an organisation"]),
        (
            "other code",
            ["holds the weights of mobilenetv2_c16-20-40-56-96-288", "not of mobilenetv2_c16-20-40-56-96-192"],
        ),
        ("bad sum", ["sha256", "0" * 64]),
        ("no tag", ["no weights tagged 'a9_in1k'", "'a1_in1k'"]),
    ],
)
def test_what_is_not_there_is_one_clear_error(case: str, expected: list[str], runs: Any) -> None:
    result = runs["online"][case]
    assert result["error"] == ("UnknownNameError" if case == "no tag" else "WeightsError")
    for words in expected:
        assert words in result["text"]


def test_a_right_checksum_passes(runs: Any) -> None:
    assert "error" not in runs["online"]["good sum"]


@pytest.mark.parametrize("state", ["cached", "offline"])
def test_without_network_the_cache_serves(state: str, runs: Any, hub: LocalHub) -> None:
    for case, name in (("searched", NAME), ("original", "resnet18")):
        result = runs[state][case]
        assert "error" not in result, result.get("text")
        assert result["sum"] == pytest.approx(hub.totals[name], rel=1e-12)


@pytest.mark.parametrize("case", ["searched", "original"])
def test_an_unreachable_hub_is_a_quick_clear_error(case: str, runs: Any) -> None:
    result = runs["unreachable"][case]
    assert result["error"] == "WeightsError"
    assert "cannot be reached" in result["text"]
    assert "http://127.0.0.1" in result["text"]
    assert "pretrained='PATH/model.safetensors'" in result["text"]
    assert result["seconds"] < 10, "huggingface_hub alone repeats for about 24 s"


@pytest.mark.network
def test_the_real_hub() -> None:
    from bsszoo.models.create import create as create_here

    net = create_here("resnet18", pretrained=True).eval()
    theirs = timm.create_model("resnet18", pretrained=True).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(net(x), theirs(x))


def test_timm_itself_does_not_ask_where_nothing_is_published(runs: Any) -> None:
    """The zoo records no published weights of this name, so timm is given no source and answers at once."""
    result = runs["online"]["by timm"]
    assert result["error"] == "RuntimeError"
    assert "No pretrained weights exist" in result["text"]


def test_a_network_that_bsszoo_does_not_know_is_rebuilt_from_its_code(runs: Any, hub: LocalHub) -> None:
    for result in (
        runs["online"]["unknown to bsszoo"],
        runs["online"]["organisation's own name"],
        runs["online"]["organisation's own by a name of timm's"],
        runs["organisation by environment"]["name"],
    ):
        assert "error" not in result, result.get("text")
        assert result["sum"] == pytest.approx(hub.totals["shoes"], rel=1e-12)  # type: ignore[attr-defined]
        assert result["classes"] == 7
        assert result["cfg"]["architecture"] == "bsszoo_code"
    fresh = runs["online"]["unknown to bsszoo, without its weights"]
    assert fresh["classes"] == 1000
    assert fresh["sum"] != pytest.approx(hub.totals["shoes"], rel=1e-6)  # type: ignore[attr-defined]
    assert runs["online"]["unknown to bsszoo, other classes"]["classes"] == 3


def test_an_organisation_has_weights_of_its_own_for_the_zoos_names(runs: Any, hub: LocalHub) -> None:
    for result in (
        runs["online"]["organisation"],
        runs["online"]["organisation's tag"],
        runs["online"]["organisation's tag by argument"],
        runs["organisation by environment"]["org"],
    ):
        assert "error" not in result, result.get("text")
        assert (result["classes"], result["cfg"]["architecture"]) == (10, NAME)
        assert result["sum"] == pytest.approx(hub.totals["ten"], rel=1e-12)  # type: ignore[attr-defined]
    original = runs["online"]["organisation, an original"]
    assert original["sum"] == pytest.approx(hub.totals["resnet18"], rel=1e-12)  # type: ignore[attr-defined]


def test_a_download_that_breaks_off_leaves_the_cache_whole(runs: Any, hub: LocalHub) -> None:
    result = runs["breaks off"]["cut"]
    assert result["error"] == "WeightsError"
    assert "cannot be reached" in result["text"]
    assert runs["breaks off"]["whole"]["sum"] == pytest.approx(hub.totals[NAME], rel=1e-12)  # type: ignore[attr-defined]
