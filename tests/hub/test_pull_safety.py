"""A pull takes nothing from a repository on trust: no name, no mark, no size; and it touches nothing but its own files.

The Hub is a local server; every pull is one of a process of its own, as a user's is.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from hub.child import Child, child, hub_environment
from local_hub import LocalHub, Repository
from safetensors.torch import save

import bsszoo

PULL, LOOK = "bsszoo.hub.pull:pull", "bsszoo.hub.pull:look"
CODE = "resnet18_c8-8-8-8_l1-1-1-1"


def saved(code: str = CODE, **config: object) -> dict[str, bytes]:
    """A network's files, whose ``config.json`` names any code."""
    parsed = bsszoo.Code.parse(code)
    data = {
        "architecture": "bsszoo_code",
        "num_classes": 3,
        "model_args": {"code": parsed.to_dict()},
        "pretrained_cfg": {"input_size": [3, 32, 32]},
        **config,
    }
    return {"config.json": json.dumps(data).encode(), "model.safetensors": WEIGHTS}


torch.manual_seed(0)
WEIGHTS = save({k: v.contiguous() for k, v in bsszoo.create(CODE, num_classes=3).state_dict().items()})
BASE = saved()


@pytest.fixture(scope="module")
def hub() -> Iterator[LocalHub]:
    hub = LocalHub()
    with hub.serve() as address:
        hub.address = address  # type: ignore[attr-defined]
        yield hub


@pytest.fixture(scope="module")
def guest(hub: LocalHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    with child(hub.address, tmp_path_factory.mktemp("guest")) as process:  # type: ignore[attr-defined]
        yield process


def put(hub: LocalHub, name: str, files: Mapping[str, bytes]) -> str:
    hub.repositories.setdefault(name, Repository()).commit(dict(files), title="t")
    return name


def tree(folder: Path) -> dict[str, bytes | None]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def test_a_mark_of_the_repository_is_never_believed(hub: LocalHub, guest: Child, tmp_path: Path) -> None:
    precious = tmp_path / "precious.txt"
    precious.write_text("thesis\n")
    mark = json.dumps({"files": ["../precious.txt"]}).encode()
    commits = [
        {**BASE, "x.json/y.json": b"{}"},
        {".pulled.json": mark, "a/.pulled.json": mark, **BASE, "x.json": b"1"},
        BASE,
    ]
    for number, files in enumerate(commits):
        put(hub, "evil/mark", files)
        done = guest.value(PULL, "evil/mark", str(tmp_path / "net"))
        assert precious.read_text() == "thesis\n"
        assert ".pulled.json" not in done["files"]
        own = json.loads((tmp_path / "net" / ".pulled.json").read_text())["files"]
        assert own == sorted(name for name in files if ".pulled" not in name), number
        assert {name for name, data in tree(tmp_path / "net").items() if data is not None} == {*own, ".pulled.json"}
        assert done["left"] == [name for name in files if ".pulled" in name]
    assert {p.name for p in tmp_path.iterdir()} == {"net", "precious.txt"}


@pytest.mark.parametrize(
    "listed",
    [
        "../precious.txt",
        "/etc/hostname",
        "a/../../precious.txt",
        "..",
        ".git/config.json",
        "a\\b.json",
        "c:x.json",
        "",
        "a//b.json",
        "link/precious.txt",
        "x\x1b.json",
        3,
        None,
        ["a"],
    ],
)
def test_a_mark_that_names_anything_else_is_refused_and_nothing_is_touched(
    listed: object, hub: LocalHub, guest: Child, tmp_path: Path
) -> None:
    put(hub, "evil/plain", BASE)
    (tmp_path / "precious.txt").write_text("thesis\n")
    folder = tmp_path / "net"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    (folder / ".pulled.json").write_text(json.dumps({"files": ["config.json", listed]}))
    before = tree(tmp_path)
    message = guest.refused(PULL, "evil/plain", str(folder))
    assert message.startswith("SettingsError"), message
    assert tree(tmp_path) == before


@pytest.mark.parametrize("text", ["[]", "{}", '{"files": {"a": 1}}', '{"files": "config.json"}', "[" * 5000, "\xff"])
def test_a_damaged_mark_is_no_pull(text: str, hub: LocalHub, guest: Child, tmp_path: Path) -> None:
    put(hub, "evil/plain", BASE)
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / ".pulled.json").write_bytes(text.encode("latin-1"))
    assert "is no pulled network" in guest.refused(PULL, "evil/plain", str(tmp_path / "net"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../x.json", "outside its folder"),
        ("/x.json", "outside its folder"),
        ("a/./x.json", "outside its folder"),
        ("a//x.json", "outside its folder"),
        ("a\\x.json", "outside its folder"),
        ("c:x.json", "outside its folder"),
        ("a\x1b[2J.json", "control characters"),
        ("a\nb.json", "control characters"),
        ("a\u202e.json", "control characters"),
        ("a" * 300 + ".json", "too long"),
        ("/".join(["abcdefghi"] * 100) + ".json", "too long"),
        ("config.json/x.json", "a folder as well"),
    ],
)
def test_dangerous_names_are_refused_whole(
    name: str, message: str, hub: LocalHub, guest: Child, tmp_path: Path
) -> None:
    put(hub, "evil/names", {**BASE, name: b"{}"})
    text = guest.refused(PULL, "evil/names", str(tmp_path / "in" / "net"))
    assert text.startswith("WeightsError")
    assert message in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert tree(tmp_path) == {"in": None}


def test_hidden_files_stay_on_the_hub(hub: LocalHub, guest: Child, tmp_path: Path) -> None:
    hidden = [".git/config.json", ".hidden.json", "sub/.pulled.json", "sub/.x/y.json", ".cache/huggingface/a.json"]
    put(hub, "evil/hidden", {**BASE, **dict.fromkeys(hidden, b"{}"), "sub/seen.json": b"{}", "run.py": b"x"})
    done = guest.value(PULL, "evil/hidden", str(tmp_path / "net"))
    assert done["left"] == [*hidden, "run.py"]
    assert {name for name, data in tree(tmp_path / "net").items() if data is not None} == {
        *BASE,
        "sub/seen.json",
        ".pulled.json",
    }


def test_what_the_user_put_there_is_never_touched(hub: LocalHub, guest: Child, tmp_path: Path) -> None:
    folder, outside = tmp_path / "net", tmp_path / "outside"
    outside.mkdir()
    (outside / "old.json").write_text("mine")
    put(hub, "evil/mine", {**BASE, "sub/old.json": b"1", "deep/a/b.json": b"1"})
    guest.value(PULL, "evil/mine", str(folder))

    def refused(name: str, *, part: str) -> None:
        put(hub, "evil/mine", {**BASE, "sub/old.json": b"1", name: b"2"})
        before = tree(tmp_path)
        message = guest.refused(PULL, "evil/mine", str(folder))
        assert message.startswith("SettingsError")
        assert part in message
        assert tree(tmp_path) == before

    # A file of one's own where the repository now has one, and where it has a folder, and inside of one.
    (folder / "notes.txt").write_text("mine")
    refused("notes.txt", part="holds notes.txt, which no pull wrote")
    refused("notes.txt/a.json", part="holds notes.txt, which no pull wrote")
    (folder / "deep" / "a" / "mine.txt").write_text("mine")
    refused("deep/a/mine.txt", part="holds deep/a/mine.txt")
    (folder / "deep.txt").mkdir()
    (folder / "deep.txt" / "mine.txt").write_text("mine")
    refused("deep.txt", part="holds deep.txt/mine.txt")
    # A link on the way to a pulled file, and under its name.
    (folder / "sub" / "old.json").unlink()
    (folder / "sub").rmdir()
    (folder / "sub").symlink_to(outside)
    refused("more.json", part="is a link")
    (folder / "sub").unlink()
    (folder / "sub").mkdir()
    (folder / "sub" / "old.json").symlink_to(outside / "old.json")
    refused("more.json", part="holds sub/old.json")
    (folder / "sub" / "old.json").unlink()
    put(hub, "evil/mine", BASE)
    guest.value(PULL, "evil/mine", str(folder))
    assert {name for name, data in tree(folder).items() if data is not None} == {
        *BASE,
        ".pulled.json",
        "notes.txt",
        "deep/a/mine.txt",
        "deep.txt/mine.txt",
    }
    assert (outside / "old.json").read_text() == "mine"


@pytest.mark.extended
def test_a_pull_that_stops_while_it_puts_files_in_place_is_finished_by_the_next(
    hub: LocalHub, guest: Child, tmp_path: Path
) -> None:
    """Wherever it stops, what is there is the old or the new files, and the mark knows them."""
    put(hub, "evil/half", {**BASE, "a.json/b.json": b"old", "z.json": b"old"})
    folder = tmp_path / "net"
    guest.value(PULL, "evil/half", str(folder))
    put(hub, "evil/half", {**BASE, "a.json": b"new", "z.json/b.json": b"new"})
    # Stopped by a folder in which nothing can be written, as a full disk would stop it.
    # Each pull is a process of its own, a fork of one that has imported everything once.
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom bsszoo.hub.pull import pull\n"
        "whole = Path.replace\ndef replace(self, target):\n    global left\n    left -= 1\n"
        "    if left < 0: raise OSError(28, 'No space left on device')\n    return whole(self, target)\n"
        "Path.replace = replace\n"
        "for steps in range(7):\n    left, child = steps, os.fork()\n    if not child:\n"
        "        try:\n            pull('evil/half', sys.argv[1]); print('done', flush=True); os._exit(0)\n"
        "        except Exception as error:\n            print(error, flush=True); os._exit(1)\n"
        "    if os.waitpid(child, 0)[1] == 0: break\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        capture_output=True,
        text=True,
        check=True,
        env=hub_environment(hub.address, tmp_path / "home", None),
    )  # type: ignore[attr-defined]
    *stopped, end = done.stdout.splitlines()
    assert end == "done"
    assert len(stopped) > 2
    assert all("No space left on device" in text for text in stopped)
    guest.value(PULL, "evil/half", str(folder))
    assert {name: data for name, data in tree(folder).items() if data in (b"old", b"new")} == {
        "a.json": b"new",
        "z.json/b.json": b"new",
    }
    assert {p.name for p in tmp_path.iterdir()} == {"net"}


@pytest.mark.extended
def test_killed_pulls_leave_one_folder_that_the_next_takes_away(hub: LocalHub, guest: Child, tmp_path: Path) -> None:
    put(hub, "evil/slow", BASE)
    name = f".bsszoo-pull-{hashlib.sha256(b'net').hexdigest()[:16]}"
    program = (
        "import os, sys\nfrom bsszoo.hub import pull as module\n"
        "module.move_into = lambda *_: os.kill(os.getpid(), 9)\n"
        "for _ in range(3):\n    child = os.fork()\n    if not child:\n"
        "        module.pull('evil/slow', sys.argv[1])\n"
        "    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == 9\n"
        "    print(*os.listdir(os.path.dirname(sys.argv[1])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "net")],
        capture_output=True,
        text=True,
        env=hub_environment(hub.address, tmp_path / "home", None),
        check=True,
    )  # type: ignore[attr-defined]
    assert done.stdout.splitlines() == [name] * 3
    guest.value(PULL, "evil/slow", str(tmp_path / "net"))
    assert {p.name for p in tmp_path.iterdir()} == {"net"}


def test_two_pulls_of_one_folder_do_not_meet(hub: LocalHub, guest: Child, tmp_path: Path) -> None:
    put(hub, "evil/plain", BASE)
    scratch = tmp_path / f".bsszoo-pull-{hashlib.sha256(b'net').hexdigest()[:16]}"
    scratch.mkdir()
    with FileLock(scratch / "lock"):
        assert "Another process is pulling into" in guest.refused(PULL, "evil/plain", str(tmp_path / "net"))
        guest.value(PULL, "evil/plain", str(tmp_path / "other"))
    guest.value(PULL, "evil/plain", str(tmp_path / "net"))
    # In a folder that others may write, the scratch folder may be a trap.
    scratch.symlink_to(tmp_path / "other")
    before = tree(tmp_path / "other")
    assert "is not a folder of yours" in guest.refused(PULL, "evil/plain", str(tmp_path / "net"))
    assert tree(tmp_path / "other") == before


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("resnet18_c65536-65536-65536-65536_l1000-1000-1000-1000", "another network"),
        ("resnet18_c8-8-8-8_l1000-1000-1000-1000", "another network"),
        ("resnet18_c8-8-8-16_l1-1-1-1", "another network"),
    ],
)
def test_weights_of_another_network_are_refused_by_their_header(
    code: str, message: str, hub: LocalHub, guest: Child, tmp_path: Path
) -> None:
    put(hub, "evil/large", saved(code))
    assert message in guest.refused(PULL, "evil/large", str(tmp_path / "net"))
    assert not (tmp_path / "net").exists()
    assert message in guest.refused("bsszoo:create", "hf-hub:evil/large", pretrained=True)


def test_a_file_that_is_no_safetensors_is_refused(hub: LocalHub, guest: Child, tmp_path: Path) -> None:
    put(hub, "evil/pickle", {**BASE, "model.safetensors": b"\x80\x04\x95"})
    assert "no whole safetensors file" in guest.refused(PULL, "evil/pickle", str(tmp_path / "net"))
    assert not (tmp_path / "net").exists()


ESC = "\x1b]0;PWNED\x07\x1b[31m\x1b[2J"
TRAINING = {
    "dataset": "torch/x" + ESC,
    "validated_on": "val" + ESC + "\nAccuracy: top-1 99.99%",
    "top1": 1.0,
    "top5": 2.0,
    "val_pictures": 5,
    "epochs": 1,
    "seed": 1,
    "versions": {"bsszoo": ESC, "torch": ESC},
}
VERSIONS = {"bsszoo": "1", "torch": "2"}
SEARCH = {
    "trials": {"complete": 4},
    "budget": {"macs": 5},
    "reference": "r" + ESC,
    "seed": 0,
    "evaluator": {"name": ESC},
}


def command(hub: LocalHub, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bsszoo", *words],
        capture_output=True,
        text=True,
        cwd=home,
        env={**hub_environment(hub.address, home / "cache", None), "NO_COLOR": "1"},  # type: ignore[attr-defined]
        timeout=120,
        check=False,
    )


@pytest.mark.extended
def test_a_repositorys_texts_reach_no_terminal_and_make_no_line(hub: LocalHub, tmp_path: Path) -> None:
    files = {
        **saved(label_names=[ESC, "a", "b"]),
        "training.json": json.dumps(TRAINING).encode(),
        "search.json": json.dumps(SEARCH).encode(),
        "README.md": b'---\nlicense: "mit\\e[2J\\e]0;PWN\\a"\n---\n',
    }
    put(hub, "evil/texts", files)
    for words in (("hub", "show", "evil/texts"), ("hub", "show", "evil/texts", "--json"), ("pull", "evil/texts")):
        done = command(hub, tmp_path, *words)
        assert done.returncode == 0, done.stderr
        message = done.stdout + done.stderr
        assert not [c for c in message if c < " " and c not in "\n\t"], repr(message)
        # A text of the repository cannot begin a line.
        assert [line for line in message.splitlines() if line.startswith("Accuracy")] == (
            [line for line in message.splitlines() if line.startswith("Accuracy: top-1 1.00%")]
        )
    put(hub, "evil/texts", {**files, "a\x1b[2J.exe": b"x"})
    done = command(hub, tmp_path, "hub", "show", "evil/texts")
    assert done.returncode == 1
    assert "\x1b" not in done.stderr


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("training.json", b"[" * 200_000),
        ("training.json", b'{"top1": ' + b"9" * 5000 + b"}"),
        ("training.json", b"[]"),
        ("training.json", b"\xff\xfe"),
        ("training.json", json.dumps({**TRAINING, "top1": float("nan")}).encode()),
        ("training.json", json.dumps({**TRAINING, "top1": 250.0}).encode()),
        ("training.json", json.dumps({**TRAINING, "val_pictures": float("inf")}).encode()),
        ("training.json", json.dumps({**TRAINING, "val_pictures": "5"}).encode()),
        ("training.json", json.dumps({**TRAINING, "versions": 5}).encode()),
        ("training.json", json.dumps({**TRAINING, "epochs": ESC}).encode()),
        ("training.json", json.dumps({k: v for k, v in TRAINING.items() if k != "versions"}).encode()),
        ("search.json", json.dumps({**SEARCH, "budget": {"macs": float("nan")}}).encode()),
        ("search.json", json.dumps({**SEARCH, "reference": 1}).encode()),
        ("search.json", b"[1]"),
        ("search.json", json.dumps({**SEARCH, "trials": {"complete": ESC}}).encode()),
    ],
)
def test_records_that_no_run_writes_are_refused_by_name(name: str, data: bytes, hub: LocalHub, guest: Child) -> None:
    put(hub, "evil/records", {**BASE, name: data})
    message = guest.refused(LOOK, "evil/records")
    assert message.startswith(f"WeightsError: The {name} of hf-hub:evil/records is broken")
    assert len(message) < 600
    assert "\x1b" not in message


@pytest.mark.parametrize(
    ("head", "licence"),
    [
        (
            b"a: &a [x,x,x,x,x,x,x,x,x]\n"
            + b"".join(
                b"b%d: &b%d [%s]\n" % (i, i, b",".join([b"*a" if i == 0 else b"*b%d" % (i - 1)] * 9)) for i in range(9)
            )
            + b"license: *b8",
            None,
        ),
        (b"license: " + b"[" * 5000, None),
        (b"license: !!python/object/apply:os.system ['touch PWNED']", None),
        (b"- a\n- b", None),
        (b"? [a]\n: b\nlicense: mit", None),
        (b"license: [mit, 3]", "mit"),
        (b"license: 3", None),
        (b"license: &a [*a]", None),
        (b"license: mit", "mit"),
        (b"license: " + b"9" * 5000, None),
    ],
)
def test_a_cards_metadata_are_data_and_no_bomb(head: bytes, licence: str | None, hub: LocalHub, guest: Child) -> None:
    put(hub, "evil/card", {**BASE, "README.md": b"---\n" + head + b"\n---\n# net\n"})
    assert guest.value(LOOK, "evil/card")["licence"] == licence
    assert not Path("PWNED").exists()


def test_a_repository_without_end_is_not_listed(hub: LocalHub, guest: Child) -> None:
    put(hub, "evil/many", {**BASE, **{f"f{i}.json": b"{}" for i in range(10_001)}})
    assert "more than 10,000 files" in guest.refused(LOOK, "evil/many")
    put(hub, "evil/long", {**BASE, "training.json": b" " * (1 << 24) + b"{}"})
    assert "bytes; at most" in guest.refused(LOOK, "evil/long")


@pytest.mark.extended
def test_a_cache_that_cannot_be_written_is_no_lost_connection(hub: LocalHub, tmp_path: Path) -> None:
    put(hub, "evil/plain", BASE)
    home = tmp_path / "home"
    home.mkdir()
    (home / "hub").write_text("a file where the cache's folder should be")
    with child(hub.address, home) as alone:  # type: ignore[attr-defined]
        message = alone.refused("bsszoo:create", "hf-hub:evil/plain", pretrained=True)
        assert message.startswith(f"WeightsError: hf-hub:evil/plain cannot be stored: the Hub's cache, {home / 'hub'}")
        assert "HF_HOME" in message
        assert "cannot be reached" not in message
        message = alone.refused(LOOK, "evil/plain")
        assert f"{home / 'hub'}" in message
        assert "connection" not in message
        (tmp_path / "file").write_text("x")
        message = alone.refused("bsszoo:create", "hf-hub:evil/plain", cache_dir=str(tmp_path / "file"))
        assert f"the Hub's cache, {tmp_path / 'file'}, cannot be written" in message
        other = alone.value("bsszoo:create", "hf-hub:evil/plain", cache_dir=str(tmp_path / "other"), pretrained=True)
        assert other["shape"] == [2, 3]


@pytest.mark.extended
def test_a_full_disk_is_no_lost_connection(hub: LocalHub, tmp_path: Path) -> None:
    """The system lets the process write no file beyond a size, as a disk that is full."""
    put(hub, "evil/plain", BASE)
    program = (
        "import resource, signal, sys\nfrom bsszoo.models.create import create\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "try:\n    create('hf-hub:evil/plain', pretrained=True)\n"
        "except Exception as error:\n    print(type(error).__name__, error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env=hub_environment(hub.address, tmp_path / "home", None),
    )  # type: ignore[attr-defined]
    assert done.stdout.startswith("WeightsError hf-hub:evil/plain cannot be stored: the Hub's cache,"), done
    assert "File too large" in done.stdout


@pytest.mark.extended
def test_a_file_of_the_cache_that_is_not_the_hubs_is_fetched_anew(hub: LocalHub, tmp_path: Path) -> None:
    put(hub, "evil/cached", {**BASE, "training.json": json.dumps({**TRAINING, "versions": VERSIONS}).encode()})
    with child(hub.address, tmp_path / "home") as alone:  # type: ignore[attr-defined]
        top1 = alone.value(LOOK, "evil/cached")["measured"][0]["top1"]
        (cached,) = (tmp_path / "home" / "hub").rglob("snapshots/*/training.json")
        cached.write_bytes(cached.read_bytes().replace(b"1.0", b"9.0"))
        assert "does not have the Hub's checksum" in alone.refused(LOOK, "evil/cached")
        assert alone.value(LOOK, "evil/cached")["measured"][0]["top1"] == top1
