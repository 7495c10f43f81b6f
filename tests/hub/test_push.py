"""Pushing and pulling through a Hub on a local socket: what arrives, what is refused, what a broken push leaves."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hub.child import Child, child
from local_hub import LocalHub
from safetensors.torch import save_file
from train.small import CODE, small_recipe

import bsszoo
from bsszoo.compression.finish import Finish
from bsszoo.models.build import build
from bsszoo.train.loop import train

PUSH, PULL, LOOK = "bsszoo.hub.push:push", "bsszoo.hub.pull:pull", "bsszoo.hub.pull:look"
ORIGINAL = "mobilenetv2_c16-16-24-24-32-32_l2-1-1-1-1-1_t6-6-6-6-6-6_stem16_stage2-8x1"
TIMMS = "resnet18_c64-8-16-24_l1-1-1-1"
TOKEN = "hf_me"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A search whose best code was trained, a training of its own, and weights without any record."""
    folder = tmp_path_factory.mktemp("made")
    recipe = small_recipe(folder, "data.dataset=synthetic/64", "schedule.epochs=1", "schedule.warmup_epochs=0")
    bsszoo.compress(
        ORIGINAL,
        flops="60%",
        trials=3,
        batch=3,
        measure=False,
        out=folder / "run",
        finish=Finish(recipe, None, device="cpu"),
    )
    train(recipe, None, folder / "training", device="cpu")
    torch.manual_seed(1)
    network = build(bsszoo.Code.parse(TIMMS), num_classes=5)
    save_file(network.state_dict(), folder / "plain.safetensors")
    torch.save(network.state_dict(), folder / "plain.pth")
    return {
        "run": folder / "run",
        "training": folder / "training",
        "plain": folder / "plain.safetensors",
        "pickle": folder / "plain.pth",
        "folder": folder,
    }


@pytest.fixture(scope="module")
def hub() -> Iterator[LocalHub]:
    hub = LocalHub({"acme": {"me"}, "other": {"somebody"}}, lfs=True)
    with hub.serve() as address:
        hub.address = address  # type: ignore[attr-defined]
        yield hub


@pytest.fixture(scope="module")
def me(hub: LocalHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    """A user who is logged in by HF_TOKEN."""
    with child(hub.address, tmp_path_factory.mktemp("home"), TOKEN) as process:  # type: ignore[attr-defined]
        yield process


@pytest.fixture(scope="module")
def guest(hub: LocalHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    """Somebody without a token and with another cache, in a process that never pushed."""
    with child(hub.address, tmp_path_factory.mktemp("guest")) as process:  # type: ignore[attr-defined]
        yield process


def files_of(hub: LocalHub, name: str, revision: str = "main") -> dict[str, bytes]:
    return hub.repositories[name].at(revision).files


def test_a_search_with_its_trained_code_is_pushed_whole_and_loads_by_bsszoo_and_timm(
    made: dict[str, Path], hub: LocalHub, me: Child, guest: Child
) -> None:
    done = me.value(PUSH, str(made["run"]), "acme/shoes", licence="mit")
    held = files_of(hub, "acme/shoes")
    assert set(held) - {".gitattributes"} == {
        "README.md",
        "config.json",
        "model.safetensors",
        "recipe.yaml",
        "training.json",
        "metrics.csv",
        "search.json",
        "search_trials.csv",
        "search.png",
    }
    assert set(done["files"]) == set(held) - {".gitattributes"}
    assert done["commit"] == hub.repositories["acme/shoes"].refs["main"]

    result = json.loads((made["run"] / "result.json").read_text())
    folder = made["run"] / result["finished"]["folder"]
    here = bsszoo.create(f"local-dir:{folder}", pretrained=True)
    size = here.default_cfg["input_size"]
    images = torch.arange(2 * size[0] * size[1] * size[2], dtype=torch.float32).reshape(2, *size).sin()
    with torch.no_grad():
        logits = hashlib.sha256(here.eval()(images).numpy().tobytes()).hexdigest()
    by_bsszoo = guest.value("bsszoo:create", "hf-hub:acme/shoes", pretrained=True)
    by_timm = guest.value("timm:create_model", "hf-hub:acme/shoes", pretrained=True)
    assert by_bsszoo["logits"] == by_timm["logits"] == logits
    assert by_bsszoo["shape"] == [2, 4]

    config = json.loads(held["config.json"])
    best = bsszoo.Code.parse(result["best"]["code"])
    assert bsszoo.Code.from_dict(config["model_args"]["code"]).entries == best.entries
    assert config["architecture"] == "bsszoo_code"


def test_the_same_push_again_changes_nothing(made: dict[str, Path], hub: LocalHub, me: Child) -> None:
    first = me.value(PUSH, str(made["training"]), "acme/twice")
    assert first["changed"]
    commits = len(hub.repositories["acme/twice"].commits)
    again = me.value(PUSH, str(made["training"]), "acme/twice")
    assert (again["changed"], again["commit"]) == (False, first["commit"])
    assert len(hub.repositories["acme/twice"].commits) == commits


def test_another_network_is_not_overwritten_unless_forced(made: dict[str, Path], hub: LocalHub, me: Child) -> None:
    me.value(PUSH, str(made["run"]), "acme/taken")
    before = dict(files_of(hub, "acme/taken"))
    message = me.refused(PUSH, str(made["training"]), "acme/taken")
    assert message.startswith("SettingsError: hf-hub:acme/taken holds the code mobilenetv2_")
    assert "--force" in message
    assert files_of(hub, "acme/taken") == before
    me.value(PUSH, str(made["training"]), "acme/taken", force=True)
    # What belonged to the other network is gone with it.
    assert not {"search.json", "search.png", "search_trials.csv"} & set(files_of(hub, "acme/taken"))
    hub.add("acme/notes", {"notes.txt": b"mine"})
    assert "holds other files (notes.txt)" in me.refused(PUSH, str(made["training"]), "acme/notes")
    hub.add("acme/vit", {"config.json": b'{"architecture": "swin_tiny_patch4_window7_224"}'})
    assert "a network that is none of bsszoo's" in me.refused(PUSH, str(made["training"]), "acme/vit")


def test_a_push_that_breaks_off_leaves_the_last_whole_commit_and_the_next_one_finishes(
    made: dict[str, Path], hub: LocalHub, me: Child
) -> None:
    me.value(PUSH, str(made["plain"]), "acme/broken", code=TIMMS)
    before = hub.repositories["acme/broken"].refs["main"]
    # 507, the disk is full, is no status that the client repeats a request for, which would take half a minute.
    for fault in ("POST /api/models/acme/broken/commit", "PUT /lfs", "POST /api/models/acme/broken/preupload"):
        hub.faults[fault] = 507
        message = me.refused(PUSH, str(made["training"]), "acme/broken", force=True)
        assert message.startswith("RunError"), message
        assert "un the same command again" in message
        hub.faults.clear()
        hub.large.clear()
        assert hub.repositories["acme/broken"].refs["main"] == before
    done = me.value(PUSH, str(made["training"]), "acme/broken", force=True)
    assert hub.repositories["acme/broken"].refs["main"] == done["commit"] != before
    # The answer to the commit was lost, not the commit: the next push finds that nothing is left to do.
    hub.faults["POST /api/models/acme/broken/commit"] = "cut"
    me.refused(PUSH, str(made["run"]), "acme/broken", force=True)
    hub.faults.clear()
    assert not me.value(PUSH, str(made["run"]), "acme/broken")["changed"]


def test_a_branch_of_its_own(made: dict[str, Path], hub: LocalHub, me: Child, guest: Child) -> None:
    me.value(PUSH, str(made["plain"]), "acme/versions", code=TIMMS)
    # A new branch needs no force, and what is on it then is as safe as on the main one.
    done = me.value(PUSH, str(made["training"]), "acme/versions", revision="v2")
    assert "holds the code" in me.refused(PUSH, str(made["plain"]), "acme/versions", code=TIMMS, revision="v2")
    card = files_of(hub, "acme/versions", "v2")["README.md"].decode()
    assert 'bsszoo.create("hf-hub:acme/versions@v2", pretrained=True)' in card
    assert done["repository"] == "acme/versions@v2"
    one, two = (guest.value("bsszoo:create", f"hf-hub:acme/versions{at}", pretrained=True) for at in ("", "@v2"))
    assert (one["shape"], two["shape"]) == ([2, 5], [2, 4])
    assert guest.value("timm:create_model", "hf-hub:acme/versions@v2", pretrained=True)["logits"] == two["logits"]
    assert guest.value(LOOK, "acme/versions@v2")["num_classes"] == 4


def test_private_repositories_are_nobody_elses(made: dict[str, Path], hub: LocalHub, me: Child, guest: Child) -> None:
    me.value(PUSH, str(made["plain"]), "acme/secret", code=TIMMS, private=True)
    assert hub.repositories["acme/secret"].private
    assert me.value("bsszoo:create", "hf-hub:acme/secret", pretrained=True)["shape"] == [2, 5]
    assert "or it is private" in guest.refused("bsszoo:create", "hf-hub:acme/secret", pretrained=True)
    assert "or it is private" in guest.refused(PULL, "acme/secret", str(made["folder"] / "nothing"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("other/net", "may not make or write repositories of 'other'. Push to me/net"),
        ("net", "names no repository to push to"),
        ("../x/y", "names no repository to push to"),
        ("acme/..", "names no repository to push to"),
        ("acme/net@v2@v3", "names no repository to push to"),
    ],
)
def test_addresses_that_cannot_be_pushed_to(name: str, message: str, made: dict[str, Path], me: Child) -> None:
    text = me.refused(PUSH, str(made["plain"]), name, code=TIMMS)
    assert message in text
    assert TOKEN not in text


def test_without_a_token_or_with_a_wrong_one(made: dict[str, Path], guest: Child) -> None:
    assert "You are not logged in" in guest.refused(PUSH, str(made["plain"]), "acme/net", code=TIMMS)
    message = guest.refused(PUSH, str(made["plain"]), "acme/net", code=TIMMS, token="wrong-secret-text")
    assert "rejects your token" in message
    assert "wrong-secret-text" not in message


def test_a_hub_that_is_away_is_an_error_at_once(made: dict[str, Path], tmp_path: Path) -> None:
    with child("http://127.0.0.1:9", tmp_path, TOKEN) as alone:
        for call in ((PUSH, str(made["plain"]), "acme/net"), (PULL, "acme/net"), (LOOK, "acme/net")):
            answer = alone.call(*call, **({"code": TIMMS} if call[0] == PUSH else {}))
            assert answer["error"] == "RunError"
            assert "http://127.0.0.1:9) cannot be reached" in answer["text"]
            assert answer["seconds"] < 15, "huggingface_hub alone repeats for about 24 s"


def test_a_dry_run_writes_what_a_push_would_send_and_asks_nobody(
    made: dict[str, Path], hub: LocalHub, me: Child, tmp_path: Path
) -> None:
    asked = len(hub.requests)
    done = me.value(PUSH, str(made["run"]), "acme/dry", dry_run=str(tmp_path / "dry"), licence="mit")
    assert (done["commit"], len(hub.requests)) == (None, asked)
    written = {p.name: p.read_bytes() for p in (tmp_path / "dry").iterdir()}
    me.value(PUSH, str(made["run"]), "acme/dry", licence="mit")
    sent = files_of(hub, "acme/dry")
    assert written == {name: data for name, data in sent.items() if name != ".gitattributes"}
    # It loads from the folder as from the Hub.
    assert me.value("bsszoo:create", f"local-dir:{tmp_path / 'dry'}", pretrained=True)["shape"] == [2, 4]
    (tmp_path / "dry" / "mine.txt").write_text("x")
    message = me.refused(PUSH, str(made["run"]), "acme/dry", dry_run=str(tmp_path / "dry"))
    assert "holds other files (mine.txt)" in message


def test_no_path_of_this_machine_and_no_token_is_sent(made: dict[str, Path], hub: LocalHub, me: Child) -> None:
    me.value(PUSH, str(made["run"]), "acme/clean")
    for name, data in files_of(hub, "acme/clean").items():
        if name.endswith((".safetensors", ".png")):
            continue
        text = data.decode()
        assert str(made["folder"]) not in text, name
        assert not re.search(r"(?<![\w:/.])/(home|root|tmp|work|usr)/", text), name
        assert TOKEN not in text


def test_a_users_own_pickle_is_published_as_safetensors(
    made: dict[str, Path], hub: LocalHub, me: Child, guest: Child
) -> None:
    me.value(PUSH, str(made["pickle"]), "acme/timms", code=TIMMS)
    assert [name for name in files_of(hub, "acme/timms") if "model" in name] == ["model.safetensors"]
    assert guest.value("bsszoo:create", "hf-hub:acme/timms", pretrained=True)["shape"] == [2, 5]


def test_two_pushes_in_the_same_moment_do_not_overwrite_each_other(
    made: dict[str, Path], hub: LocalHub, me: Child
) -> None:
    me.value(PUSH, str(made["training"]), "acme/raced")
    repository = hub.repositories["acme/raced"]
    first = repository.refs["main"]
    # Somebody else's commit arrives between the look at what is there and the own commit.
    hub.before["POST /api/models/acme/raced/preupload"] = lambda: repository.commit({"other": b"1"}, title="other")
    message = me.refused(PUSH, str(made["plain"]), "acme/raced", code=TIMMS, force=True)
    hub.before.clear()
    assert message.startswith("RunError")
    assert "Run the same command again" in message
    assert repository.at("main").files == {"other": b"1"}
    assert repository.refs["main"] != first


def test_other_weights_of_a_training_keep_its_input_and_labels_and_not_its_figures(
    made: dict[str, Path], hub: LocalHub, me: Child
) -> None:
    me.value(PUSH, str(made["training"] / "best.safetensors"), "acme/best")
    held = files_of(hub, "acme/best")
    config = json.loads(held["config.json"])
    assert config["pretrained_cfg"]["input_size"] == [3, 32, 32]
    assert "training.json" not in held
    assert "Not measured" in held["README.md"].decode()


def test_timm_alone(made: dict[str, Path], hub: LocalHub, me: Child, tmp_path: Path) -> None:
    me.value(PUSH, str(made["plain"]), "acme/alone", code=TIMMS)
    ours = me.value("bsszoo:create", "hf-hub:acme/alone", pretrained=True)
    with child(hub.address, tmp_path) as fresh:  # type: ignore[attr-defined]
        theirs = fresh.value("timm:create_model", "hf-hub:acme/alone", pretrained=True)
    assert not theirs["bsszoo"], "bsszoo was imported in that process"
    assert theirs["architecture"] == "resnet18"
    assert theirs["logits"] == ours["logits"]


def test_pull_and_show(made: dict[str, Path], hub: LocalHub, me: Child, guest: Child, tmp_path: Path) -> None:
    me.value(PUSH, str(made["run"]), "acme/pulled", licence="mit")
    hub.repositories["acme/pulled"].commit(
        {**files_of(hub, "acme/pulled"), "pytorch_model.bin": b"would run", "setup.py": b"would run"}, title="more"
    )
    done = guest.value(PULL, "acme/pulled", str(tmp_path / "pulled"))
    assert set(done["left"]) == {"pytorch_model.bin", "setup.py"}
    assert not (tmp_path / "pulled" / "pytorch_model.bin").exists()
    hubs = guest.value("bsszoo:create", "hf-hub:acme/pulled", pretrained=True)
    assert guest.value("bsszoo:create", f"local-dir:{tmp_path / 'pulled'}", pretrained=True)["logits"] == hubs["logits"]
    assert guest.value(PULL, "acme/pulled", str(tmp_path / "pulled"))["commit"] == done["commit"]
    # What was pulled can be published elsewhere, with all that is known of it.
    again = me.value(PUSH, str(tmp_path / "pulled"), "acme/second-home", licence="mit")
    assert {"training.json", "search.json", "search.png", "recipe.yaml"} <= set(again["files"])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    assert "exists already" in guest.refused(PULL, "acme/pulled", str(tmp_path / "full"))

    fetched = len([r for r in hub.requests if "model.safetensors" in r])
    facts = guest.value(LOOK, "acme/pulled")
    assert len([r for r in hub.requests if "model.safetensors" in r]) == fetched, "it needs no weights"
    summary = json.loads(files_of(hub, "acme/pulled")["training.json"])
    assert (facts["num_classes"], facts["licence"], facts["cost"]["params"]) == (4, "mit", summary["params"])
    assert facts["measured"][0]["top1"] == summary["top1"]
    assert facts["search"]["trials"] == {"complete": 3, "pruned": 0, "failed": 0}


def test_a_pull_replaces_an_earlier_one_whole_and_touches_nothing_else(
    made: dict[str, Path], hub: LocalHub, me: Child, guest: Child, tmp_path: Path
) -> None:
    me.value(PUSH, str(made["run"]), "acme/whole")
    me.value(PUSH, str(made["plain"]), "acme/whole", code=TIMMS, revision="bare")
    folder = tmp_path / "pulled"
    guest.value(PULL, "acme/whole", str(folder))
    (folder / "mine.txt").write_text("kept")
    guest.value(PULL, "acme/whole@bare", str(folder))
    assert {p.name for p in folder.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
        "mine.txt",
        ".pulled.json",
    }
    assert guest.value("bsszoo:create", f"local-dir:{folder}", pretrained=True)["shape"] == [2, 5]
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    for fault in ("GET /acme/whole/resolve", "HEAD /acme/whole/resolve"):
        hub.faults[fault] = 507
        assert "RunError" in guest.refused(PULL, "acme/whole", str(folder))
        hub.faults.clear()
        assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["pulled"], "nothing is left beside it"
    # A training of one's own is no earlier pull.
    own = {p.name: p.read_bytes() for p in made["training"].iterdir() if p.is_file()}
    assert "is no pulled network" in guest.refused(PULL, "acme/whole", str(made["training"]))
    assert {p.name: p.read_bytes() for p in made["training"].iterdir() if p.is_file()} == own
    files = files_of(hub, "acme/whole")
    hub.repositories["acme/whole"].commit({**files, "extra[1].json": b"{}"}, title="brackets")
    guest.value(PULL, "acme/whole", str(folder))
    assert (folder / "extra[1].json").read_bytes() == b"{}"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("training.json", b"[1]"),
        ("search.json", b'{"a": 1}'),
        ("config.json", b'{"num_classes": "abc"}'),
        ("training.json", b"{"),
        ("README.md", b"---\nlicense: \x01\n---\n"),
    ],
)
def test_a_repository_that_holds_anything_is_looked_at_in_words(
    name: str, text: bytes, made: dict[str, Path], hub: LocalHub, me: Child, guest: Child
) -> None:
    me.value(PUSH, str(made["run"]), "acme/odd")
    hub.repositories["acme/odd"].commit({**files_of(hub, "acme/odd"), name: text}, title="odd")
    if name == "README.md":
        assert guest.value(LOOK, "acme/odd")["licence"] is None
    else:
        assert guest.refused(LOOK, "acme/odd").startswith("WeightsError")
    hub.repositories.pop("acme/odd")


@pytest.mark.parametrize("name", ["../../evil.json", "/etc/evil.json", "..\\evil.json", "a/../../evil.json"])
def test_a_file_name_that_leaves_its_folder_is_refused(
    name: str, made: dict[str, Path], hub: LocalHub, me: Child, guest: Child, tmp_path: Path
) -> None:
    me.value(PUSH, str(made["plain"]), "acme/evil", code=TIMMS)
    good = files_of(hub, "acme/evil")
    hub.repositories["acme/evil"].commit({**good, name: b"{}"}, title="evil")
    message = guest.refused(PULL, "acme/evil", str(tmp_path / "inside" / "pulled"))
    assert message.startswith("WeightsError")
    assert "outside its folder" in message
    assert list(tmp_path.rglob("*evil*")) == []
    hub.repositories["acme/evil"].commit({k: v for k, v in good.items() if k != name}, title="good")


def test_what_is_pulled_is_checked(
    made: dict[str, Path], hub: LocalHub, me: Child, guest: Child, tmp_path: Path
) -> None:
    me.value(PUSH, str(made["plain"]), "acme/swapped", code=TIMMS)
    good = files_of(hub, "acme/swapped")
    other = hub.add("acme/other-weights", {**good, "model.safetensors": good["model.safetensors"][:-4] + b"\1\2\3\4"})
    assert other.refs
    message = guest.refused("bsszoo:create", "hf-hub:acme/other-weights", pretrained=True)
    assert "are not those that its config.json recorded" in message
    assert "its config.json recorded" in guest.refused(PULL, "acme/other-weights", str(tmp_path / "swapped"))
    assert not (tmp_path / "swapped").exists()
    hub.add("acme/nothing-in-it", {"README.md": b"# later"})
    assert "holds no network" in guest.refused(PULL, "acme/nothing-in-it", str(tmp_path / "a"))
    hub.add("acme/pickled", {"config.json": good["config.json"], "pytorch_model.bin": b"would run"})
    assert "a pickle" in guest.refused(PULL, "acme/pickled", str(tmp_path / "b"))
    assert "There is no hf-hub:acme/nowhere" in guest.refused(PULL, "acme/nowhere", str(tmp_path / "c"))
    assert "no revision 'v9'" in guest.refused(LOOK, "acme/swapped@v9")


def test_sources_that_hold_nothing_to_publish(made: dict[str, Path], me: Child, tmp_path: Path) -> None:
    def refused(source: Path, **more: Any) -> str:
        return me.refused(PUSH, str(source), "acme/net", dry_run=str(tmp_path / "out"), **more)

    assert "There is no" in refused(tmp_path / "nowhere")
    assert "nothing to publish" in refused(made["folder"])
    # Weights alone say which network they are of.
    found = me.value(PUSH, str(made["plain"]), "acme/net", dry_run=str(tmp_path / "plain"))
    assert found["code"]["family"] == "resnet18"
    assert "another network" in refused(made["plain"], code="resnet18")
    assert "There is no model 'resnet19'" in refused(made["plain"], code="resnet19")
    assert f"--code names {bsszoo.Code.parse(TIMMS)}" in refused(made["training"], code=TIMMS)
    assert "is none of the search's networks" in refused(made["training"], search=str(made["run"]))
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "recipe.yaml").write_text((made["training"] / "recipe.yaml").read_text())
    assert "is not finished" in refused(unfinished)
    searched = tmp_path / "searched"
    searched.mkdir()
    result = json.loads((made["run"] / "result.json").read_text())
    (searched / "result.json").write_text(json.dumps({**result, "finished": None}))
    message = refused(searched)
    assert "no weights to publish" in message
    assert f"bsszoo train paper:{result['best']['code']}" in message
    assert CODE not in message
