"""A checkpoint is gone on from as it was written, or refused in words; and all files of a folder are of one moment."""

from __future__ import annotations

import copy
import csv
import hashlib
import json
import os
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from train.small import environment

import bsszoo
from bsszoo.errors import BssZooError, RunError, SettingsError, StoppedError, WeightsError
from bsszoo.hub.push import push
from bsszoo.train import loop
from bsszoo.train.callbacks import NoCallback
from bsszoo.train.checkpoint import EpochRow, Folder, best_of
from bsszoo.train.checkpoint_contents import read_checkpoint
from bsszoo.train.classification.recipe import Recipe, read_recipe

TEXT = """
model: {name: 'resnet18_c8-8-8-8_l1-1-1-1', num_classes: 4}
data: {dataset: synthetic/32, image_size: 32}
optim: {lr: 0.05, batch_size: 16, weight_decay: 0.001}
schedule: {epochs: 3}
ema: {decay: 0.3}
run: {seed: 6, workers: 0, device_batch: 8}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    file = tmp_path_factory.mktemp("recipe") / "r.yaml"
    file.write_text(TEXT)
    return read_recipe(file)


class _Noted(NoCallback):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


class _StopAfter(NoCallback):
    """Ends a training like a kill right after some rounds."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds

    def validated(self, row: Any) -> None:
        if row.epoch == self._rounds:
            raise StoppedError("enough")


@pytest.fixture(scope="module")
def trained(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training."""
    out = tmp_path_factory.mktemp("trained") / "out"
    loop.train(recipe, None, out, device="cpu")
    return out


@pytest.fixture(scope="module")
def begun(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same training, ended after its second epoch."""
    out = tmp_path_factory.mktemp("begun") / "out"
    with pytest.raises(StoppedError):
        loop.train(recipe, None, out, device="cpu", callback=_StopAfter(2))
    return out


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def copied(folder: Path, tmp_path: Path) -> Path:
    out = tmp_path / "copy"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(folder, out, ignore=shutil.ignore_patterns(".lock"))
    return out


def resumed(recipe: Recipe, out: Path) -> tuple[dict[str, Any], list[str]]:
    callback = _Noted()
    return loop.train(recipe, None, out, device="cpu", callback=callback), callback.notes


@pytest.mark.skipif(not hasattr(os, "fork"), reason="trains in forked processes")
@pytest.mark.extended
def test_killed_before_any_write_it_ends_with_the_files_of_the_training_that_nothing_stopped(tmp_path: Path) -> None:
    script = Path(__file__).with_name("killed_at_each_write.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    whole = found.pop("whole")
    assert len(found) == 1 + 2 * 3 + 3  # the recipe; three files an epoch, with the best weights; three at the end
    assert {name: files for name, files in found.items() if files != whole} == {}
    assert whole["best.safetensors"] == whole["summary"]["best_sha256"]
    assert whole["model.safetensors"] == whole["summary"]["sha256"]
    tops = [float(row[-1]) for row in whole["rows"]]
    assert whole["summary"]["best_epoch"] == 1 + tops.index(max(tops))


def test_the_best_of_equal_rounds_is_the_first_for_the_file_and_for_the_summary(trained: Path) -> None:
    rows = [EpochRow(n, 2 * n, 0.1, 1.0, 1.0, top1, 100.0, 1.0, 1.0) for n, top1 in ((1, 20.0), (2, 30.0), (3, 30.0))]
    assert best_of(rows).epoch == 2
    summary = json.loads((trained / "summary.json").read_text())
    tops = [float(r["top1"]) for r in csv.DictReader((trained / "metrics.csv").open())]
    assert summary["best_epoch"] == 1 + tops.index(max(tops))
    assert digest(trained / "best.safetensors") == summary["best_sha256"]


def test_a_checkpoint_of_the_first_version_goes_on_to_the_same_weights(
    recipe: Recipe, begun: Path, trained: Path, tmp_path: Path
) -> None:
    for best, last in ((10.0, 20.0), (90.0, 20.0), (20.0, 20.0)):
        out = copied(begun, tmp_path)
        state = torch.load(out / "last.pt", weights_only=True)
        del state["best"]  # 0.1.0 had all else
        state["rows"][0]["top1"], state["rows"][1]["top1"] = best, last
        torch.save(state, out / "last.pt")
        file = out / "best.safetensors"
        before = digest(file)
        summary, notes = resumed(recipe, out)
        assert digest(out / "model.safetensors") == digest(trained / "model.safetensors")
        if best != last:
            assert notes == []
            assert summary["best_sha256"] == digest(file)
            assert best < last or digest(file) == before
        elif summary["best_epoch"] == 1:
            # Of equals it left the last one's weights.
            assert summary["best_sha256"] is None
            assert not file.exists()


def test_a_flipped_bit_in_a_checkpoint_is_refused_or_harmless(begun: Path, tmp_path: Path) -> None:
    whole = (begun / "last.pt").read_bytes()
    wanted = torch.load(begun / "last.pt", weights_only=True)
    rng, file, refused = random.Random(0), tmp_path / "last.pt", []
    directory = whole.index(b"PK\x01\x02")
    for number in range(240):
        data = bytearray(whole)
        index = rng.randrange(directory, len(data)) if number % 3 == 0 else rng.randrange(len(data))
        data[index] ^= 1 << rng.randrange(8)
        file.write_bytes(bytes(data))
        try:
            assert same(read_checkpoint(file), wanted), f"byte {index}"
        except SettingsError as error:
            refused.append(str(error))
    assert len(refused) > 120
    assert all(str(file) in words and "remove it, and the same command trains anew" in words for words in refused)


def test_a_training_does_not_go_on_from_a_flipped_bit(
    recipe: Recipe, begun: Path, trained: Path, tmp_path: Path
) -> None:
    rng, outcomes = random.Random(3), set()
    for _ in range(12):
        out = copied(begun, tmp_path)
        data = bytearray((out / "last.pt").read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        (out / "last.pt").write_bytes(bytes(data))
        try:
            resumed(recipe, out)
            assert digest(out / "model.safetensors") == digest(trained / "model.safetensors")
            outcomes.add("went on")
        except SettingsError:
            outcomes.add("refused")
    assert outcomes == {"went on", "refused"}


CONTENTS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no model": (lambda s: s.pop("model"), "it has no 'model'"),
    "no dict": (lambda s: s.update(model=[1]), "its 'model' is a list"),
    "a truth for a count": (lambda s: s.update(update=True), "its 'update' is a bool"),
    "a later format": (lambda s: s.update(format=2), "its format is 2, and this version reads 1"),
    "rows": (lambda s: s["rows"][0].pop("top5"), "row 1 has other fields than epoch, update"),
    "text in a row": (lambda s: s["rows"][1].update(top1="high"), "row 2 has 'high' for 'top1'"),
    "another round": (lambda s: s["rows"].pop(0), "row 1 is of epoch 2 after 4 updates"),
    "updates": (lambda s: s.update(update=77), "it is of update 77, and 2 rounds end after 4"),
    "infinite": (lambda s: s.update(loss_sum=float("inf")), "its 'loss_sum' is inf"),
    "shape": (lambda s: s["model"].update({"fc.bias": torch.zeros(2)}), r"fc\.bias of its 'model' is .*\[2\], and"),
    "dtype": (lambda s: s["ema"].update({"fc.bias": torch.zeros(4).half()}), r"fc\.bias of its 'ema' is torch.float16"),
    "tensor": (lambda s: s["model"].pop("fc.weight"), "its 'model' lacks fc.weight"),
    "nan": (lambda s: s["model"]["fc.bias"].fill_(float("nan")), r"fc\.bias of its 'model' is not finite"),
    "no average": (lambda s: s.update(ema=None), "it has no 'ema', unlike the recipe"),
    "scaler": (lambda s: s.update(scaler={}), "it has a 'scaler', unlike the recipe"),
    "another optimiser": (lambda s: s["optimizer"]["param_groups"][0].update(betas=(0.9, 0.99)), "of another kind"),
    "groups": (lambda s: s["optimizer"]["param_groups"].pop(), "has 1 groups of parameters, and the recipe's 2"),
    "momentum": (lambda s: s["optimizer"]["state"].pop(0), "has states of"),
    "momentum's shape": (lambda s: s["optimizer"]["state"][0].update(momentum_buffer=torch.zeros(1)), "parameter 0"),
    "momentum's name": (lambda s: s["optimizer"]["state"][0].update(exp_avg=torch.zeros(1)), "parameter 0"),
    "a setting": (lambda s: s["optimizer"]["param_groups"][0].update(dampening="much"), "'much' for 'dampening'"),
    "best": (lambda s: s.update(best=5), "its 'best' is a int"),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_a_checkpoint_with_other_contents_is_refused_with_its_name(
    recipe: Recipe, begun: Path, tmp_path: Path, name: str
) -> None:
    change, words = CONTENTS[name]
    out = copied(begun, tmp_path)
    state = torch.load(out / "last.pt", weights_only=True)
    change(state)
    torch.save(state, out / "last.pt")
    with pytest.raises(SettingsError, match=words) as caught:
        resumed(recipe, out)
    assert str(out / "last.pt") in str(caught.value)


def test_settings_of_the_optimiser_are_the_recipes(recipe: Recipe, begun: Path, trained: Path, tmp_path: Path) -> None:
    out = copied(begun, tmp_path)
    state = torch.load(out / "last.pt", weights_only=True)
    for group in state["optimizer"]["param_groups"]:
        group.update(lr=9.0, initial_lr=9.0, momentum=0.1, weight_decay=3.0, nesterov=False)
    torch.save(state, out / "last.pt")
    resumed(recipe, out)
    assert digest(out / "model.safetensors") == digest(trained / "model.safetensors")


@pytest.mark.parametrize("name", ["adamw", "lamb", "rmsproptf", "adafactor", "lion", "adan"])
def test_other_optimisers_go_on_too(recipe: Recipe, tmp_path: Path, name: str) -> None:
    from bsszoo.train.classification.recipe import with_values

    other = with_values(recipe, optim={"name": name, "lr": 0.001}, schedule={"epochs": 2})
    loop.train(other, None, tmp_path / "whole", device="cpu")
    with pytest.raises(StoppedError):
        loop.train(other, None, tmp_path / "out", device="cpu", callback=_StopAfter(1))
    resumed(other, tmp_path / "out")
    assert digest(tmp_path / "out" / "model.safetensors") == digest(tmp_path / "whole" / "model.safetensors")


def test_checkpoints_changed_at_random_are_refused_in_words_or_go_on_to_the_same_weights(
    recipe: Recipe, begun: Path, trained: Path, tmp_path: Path
) -> None:
    rng = random.Random(5)
    whole = torch.load(begun / "last.pt", weights_only=True)
    went_on, refused = 0, []
    for _ in range(40):
        out = copied(begun, tmp_path)
        state = copy.deepcopy(whole)
        what = mutated(state, rng)
        torch.save(state, out / "last.pt")
        try:
            resumed(recipe, out)
            if what is not None:
                assert digest(out / "model.safetensors") == digest(trained / "model.safetensors"), what
            went_on += 1
        except BssZooError as error:
            refused.append(str(error))
    assert went_on
    assert len(refused) > 20
    assert all(str(tmp_path / "copy") in words for words in refused)


def mutated(state: dict[str, Any], rng: random.Random) -> str | None:
    """Change something in a checkpoint; what, or None for a number that nobody could know to be another one."""
    values: list[Any] = [
        None,
        True,
        -1,
        10**30,
        float("nan"),
        "text",
        [],
        {},
        torch.zeros(0),
        torch.zeros(3, 3),
        torch.zeros(2, dtype=torch.complex64),
        b"bytes",
    ]
    node: Any = state
    path = []
    while isinstance(node, (dict, list)) and node:
        inside = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = rng.choice(inside)
        path.append(str(key))
        if rng.random() < 0.35 or not isinstance(node[key], (dict, list)):
            break
        node = node[key]
    old = node[key]
    if rng.random() < 0.3:
        del node[key]
        return f"without {'.'.join(path)}"
    node[key] = new = rng.choice(values)
    settings = {"seconds", "loss_sum", "dampening", "maximize", "foreach", "differentiable", "fused"}
    may_differ = path[-1] in settings or (path[0] == "rows" and len(path) > 2)
    number = isinstance(old, (int, float)) and isinstance(new, (int, float))
    return None if may_differ and (number or old is None or new is None) else f"{'.'.join(path)} is {new!r}"


@pytest.mark.parametrize(
    "name",
    ["last.pt", "recipe.yaml", "metrics.csv", "best.safetensors", "model.safetensors", "config.json", "summary.json"],
)
def test_damaged_files_of_a_folder_are_refused_in_words_or_made_again(
    recipe: Recipe, begun: Path, trained: Path, tmp_path: Path, name: str
) -> None:
    rng, refused = random.Random(name), []
    for folder in (begun, trained):
        if not (folder / name).exists():
            continue
        for _ in range(6):
            out = copied(folder, tmp_path)
            damage(out / name, rng)
            try:
                resumed(recipe, out)
            except BssZooError as error:
                refused.append(str(error))
                continue
            assert digest(out / "model.safetensors") == digest(trained / "model.safetensors")
            summary = json.loads((out / "summary.json").read_text())
            if summary["best_sha256"] is None:
                assert not (out / "best.safetensors").exists()
                assert "best.safetensors" in summary["files"][-1]
            else:
                assert digest(out / "best.safetensors") == summary["best_sha256"]
            made = bsszoo.create(f"local-dir:{out}", pretrained=True).state_dict()
            assert same(dict(made), load_file(trained / "model.safetensors"))
    assert all(str(out) in words for words in refused)
    assert name == "recipe.yaml" or all(name in words for words in refused)


def damage(file: Path, rng: random.Random) -> None:
    data = bytearray(file.read_bytes())
    kind = rng.randrange(6)
    if kind == 0:
        file.unlink()
    elif kind == 1:
        file.unlink()
        file.mkdir()
    elif kind == 2:
        file.write_bytes(data[: rng.randrange(len(data))])
    elif kind == 3:
        file.write_bytes(rng.choice([b"", b"{}", b"[1]", b"\xff\xfe\x00", b"[" * 100_000, b"a: &a [*a, *a]"]))
    else:
        for _ in range(1 if kind == 4 else 30):
            data[rng.randrange(len(data))] = rng.randrange(256)
        file.write_bytes(data)


def same(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, torch.Tensor):
        return isinstance(value, torch.Tensor) and value.dtype == wanted.dtype and torch.equal(value, wanted)
    if isinstance(wanted, dict):
        return value.keys() == wanted.keys() and all(same(value[k], v) for k, v in wanted.items())
    if isinstance(wanted, (list, tuple)):
        return len(value) == len(wanted) and all(map(same, value, wanted))
    return bool(value == wanted)


@pytest.mark.parametrize("how", ["missing", "flipped"])
def test_best_weights_that_are_lost_are_said_to_be_and_no_wrong_file_stays(
    recipe: Recipe, trained: Path, tmp_path: Path, how: str
) -> None:
    out = copied(trained, tmp_path)
    (out / "summary.json").unlink()
    state = torch.load(out / "last.pt", weights_only=True)
    # As if the first epoch had been better than those after it.
    state["rows"][0]["top1"] = 99.0
    torch.save(state, out / "last.pt")
    file = out / "best.safetensors"
    if how == "missing":
        file.unlink()
    else:
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(bytes(data))
    summary, notes = resumed(recipe, out)
    assert (summary["best_epoch"], summary["best_sha256"]) == (1, None)
    assert len(notes) == 1
    assert "cannot be made again from last.pt" in notes[0]
    assert summary["files"] == notes
    assert not file.exists()
    assert file.with_name("best.safetensors.damaged").exists() == (how == "flipped")


def test_a_finished_training_whose_weights_are_gone_writes_them_again(
    recipe: Recipe, trained: Path, tmp_path: Path
) -> None:
    for change in (
        lambda f: f.unlink(),
        lambda f: f.write_bytes(f.read_bytes()[:-1] + b"\1"),
        lambda f: save_file({"fc.bias": torch.zeros(4)}, f),
    ):
        out = copied(trained, tmp_path)
        change(out / "model.safetensors")
        _, notes = resumed(recipe, out)
        assert digest(out / "model.safetensors") == digest(trained / "model.safetensors")
        assert "written again from last.pt" in notes[0]
        change(out / "model.safetensors")
        (out / "last.pt").unlink()
        with pytest.raises(SettingsError, match=r"model\.safetensors is .*there is no last\.pt to write it from"):
            resumed(recipe, out)


def test_a_folder_of_the_first_version_is_still_finished(recipe: Recipe, trained: Path, tmp_path: Path) -> None:
    out = copied(trained, tmp_path)
    summary = {k: v for k, v in json.loads((out / "summary.json").read_text()).items() if "sha256" not in k}
    (out / "summary.json").write_text(json.dumps(summary))
    config = json.loads((out / "config.json").read_text())
    del config["bsszoo"]
    (out / "config.json").write_text(json.dumps(config))
    (out / "last.pt").unlink()
    assert resumed(recipe, out) == (summary, [])
    assert bsszoo.create(f"local-dir:{out}", pretrained=True) is not None


def test_weights_with_a_flipped_bit_are_not_loaded_from_their_folder(trained: Path, tmp_path: Path) -> None:
    out = copied(trained, tmp_path)
    data = bytearray((out / "model.safetensors").read_bytes())
    data[-2] ^= 4
    (out / "model.safetensors").write_bytes(bytes(data))
    with pytest.raises(WeightsError, match="not those that its config"):
        bsszoo.create(f"local-dir:{out}", pretrained=True)


@pytest.mark.parametrize("damaged", ["", "[]", "{}", '{"top1": 3', '{"model": 5}', "[" * 100_000, "1" * 5000])
def test_a_damaged_summary_is_refused_with_its_name_and_the_remedy(
    recipe: Recipe, trained: Path, tmp_path: Path, damaged: str
) -> None:
    out = copied(trained, tmp_path)
    (out / "summary.json").write_text(damaged)
    with pytest.raises(SettingsError, match=r"summary\.json is damaged: .*Take it away; the same command writes"):
        resumed(recipe, out)
    (out / "summary.json").unlink()
    assert resumed(recipe, out)[0]["sha256"] == digest(trained / "model.safetensors")


@pytest.mark.extended
def test_a_full_disk_is_said_in_words_and_the_same_command_goes_on(
    recipe: Recipe, begun: Path, trained: Path, tmp_path: Path
) -> None:
    out = copied(begun, tmp_path)
    before = digest(out / "last.pt")
    most = (out / "last.pt").stat().st_size - 1000
    file = tmp_path / "r.yaml"
    file.write_text(TEXT)
    words = [sys.executable, "-m", "bsszoo", "train", str(file), "--out", str(out), "--device", "cpu"]

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    done = subprocess.run(words, env=environment(), capture_output=True, text=True, preexec_fn=limited)
    errors = " ".join(done.stderr.split())
    assert done.returncode not in (0, -25)
    assert (
        "last.pt cannot be written: File too large. The last checkpoint, last.pt, is whole: once there is room, "
        "the same command resumes from there" in errors
    )
    assert "Traceback" not in errors
    assert "inline_container" not in errors
    assert digest(out / "last.pt") == before
    assert not list(out.glob(".*.part"))
    resumed(recipe, out)
    assert digest(out / "model.safetensors") == digest(trained / "model.safetensors")


def test_weights_that_cannot_be_written_are_a_run_error_too(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(RunError, match=r"model\.safetensors cannot be written: .*There is no checkpoint yet"):
        Folder(tmp_path).save_weights("model.safetensors", {"a": torch.zeros(3)})


def test_tensorboard_has_each_epoch_once_after_a_kill(recipe: Recipe, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from bsszoo.train.classification.recipe import with_values

    wanted = with_values(recipe, run={"tensorboard": True})
    for rounds in (1, 2):  # each is ended after its checkpoint, before its line is written for TensorBoard
        with pytest.raises(StoppedError):
            loop.train(wanted, None, tmp_path / "out", device="cpu", callback=_StopAfter(rounds))
    loop.train(wanted, None, tmp_path / "out", device="cpu")
    events = EventAccumulator(str(tmp_path / "out" / "tensorboard")).Reload()
    assert [e.step for e in events.Scalars("top1")] == [1, 2, 3]


def test_a_flipped_bit_of_finished_weights_is_not_published(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(trained, out)
    push(out, "me/net", dry_run=tmp_path / "whole")
    file = out / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-2] ^= 4
    file.write_bytes(bytes(data))
    with pytest.raises(WeightsError, match="not those that its config"):
        push(out, "me/net", dry_run=tmp_path / "damaged")


@pytest.mark.parametrize("optimizer", ["lookahead_sgd", "lookahead_adamw"])
def test_a_training_whose_optimiser_adds_to_its_state_late_goes_on_to_the_same_weights(
    tmp_path: Path, optimizer: str
) -> None:
    file = tmp_path / "r.yaml"
    text = TEXT.replace("optim: {lr", f"optim: {{name: {optimizer}, lr")
    file.write_text(text.replace("synthetic/32", "synthetic/128"))
    recipe = read_recipe(file)
    with pytest.raises(StoppedError):  # after 8 updates, of which the 6th adds
        loop.train(recipe, None, tmp_path / "broken", device="cpu", callback=_StopAfter(1))
    assert resumed(recipe, tmp_path / "broken")[1] == []
    loop.train(recipe, None, tmp_path / "whole", device="cpu")
    assert digest(tmp_path / "broken" / "model.safetensors") == digest(tmp_path / "whole" / "model.safetensors")
