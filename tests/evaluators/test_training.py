"""Training as the evaluator of a search: real trainings of small networks on synthetic images, in real processes."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import drawn_shapes
import pytest
import torch
import yaml
from rich.console import Console
from train.small import CODE, small_recipe
from typer.testing import CliRunner

import bsszoo
from bsszoo.cli.main import app
from bsszoo.cli.training_progress import Bars
from bsszoo.codes import FAMILIES, code_cost
from bsszoo.compression.finish import Finish
from bsszoo.errors import BssZooError, EvaluationError, RecipeError, SettingsError
from bsszoo.evaluators import Evaluator, Score, Trial
from bsszoo.evaluators.base import Untracked, listening, tell
from bsszoo.evaluators.training import TrainingEvaluator, fitting_recipe, training_recipe
from bsszoo.models.resolve import resolve
from bsszoo.report.commands import after_training, commands
from bsszoo.train.classification.paper import paper_recipe
from bsszoo.train.classification.recipe import DataPart, Recipe, read_recipe
from bsszoo.train.strict import as_mapping

pytestmark = pytest.mark.usefixtures("no_plots")

RECIPES = Path(__file__).parents[2] / "recipes" / "imagenet"
QUICK = ("data.dataset=synthetic/128", "data.holdout=0.25", "schedule.epochs=1", "schedule.warmup_epochs=0")


def quick(folder: Path, *assignments: str) -> Recipe:
    return small_recipe(folder, *QUICK, *assignments)


def test_the_score_is_the_mean_of_the_trainings_and_a_finished_one_is_not_repeated(tmp_path: Path) -> None:
    judge = TrainingEvaluator(quick(tmp_path), None, tmp_path / "trainings", repeats=2, device="cpu")
    code = bsszoo.Code.parse(CODE)
    accuracies = judge.accuracies(code)
    summaries = [json.loads((judge.training_folder(code, s) / "summary.json").read_text()) for s in (0, 1)]
    assert accuracies == [s["top1"] for s in summaries]
    assert [s["val_pictures"] for s in summaries] == [32, 32]
    assert summaries[0]["train_loss"] != summaries[1]["train_loss"]
    before = (judge.training_folder(code, 0) / "summary.json").stat().st_mtime_ns
    assert judge(code).value == pytest.approx(sum(accuracies) / 2)
    assert (judge.training_folder(code, 0) / "summary.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("family", "optimiser", "rate", "decay"),
    [
        ("mobilenetv2", "sgd", 0.05, 2e-5),
        ("convnext_atto", "adamw", 2e-3, 0.05),
        ("mobilenetv4_conv_small", "sgd", 0.05, 5e-4),
    ],
)
def test_few_images_are_learned_by_an_optimiser_of_their_own(
    family: str, optimiser: str, rate: float, decay: float, tmp_path: Path
) -> None:
    recipe = fitting_recipe(family, drawn_shapes.write(tmp_path), None)
    assert recipe.optim.name == optimiser
    assert recipe.optim.lr == pytest.approx(rate * recipe.optim.batch_size / 64)
    assert recipe.optim.weight_decay == decay
    assert FAMILIES[family].training.short == optimiser


@pytest.mark.extended
def test_a_code_that_is_evaluated_again_is_trained_with_further_seeds(tmp_path: Path) -> None:
    judge = TrainingEvaluator(quick(tmp_path), None, tmp_path / "trainings", device="cpu")
    code = bsszoo.Code.parse(CODE)
    first, again = (judge.evaluate(code, Untracked(replicate=number)) for number in (0, 1))
    summaries = [json.loads((judge.training_folder(code, s) / "summary.json").read_text()) for s in (0, 1)]
    assert [first.value, again.value] == [s["top1"] for s in summaries]
    assert summaries[0]["train_loss"] != summaries[1]["train_loss"]


@pytest.mark.extended
def test_shorter_trainings_judge_codes_and_the_end_trains_in_full(tmp_path: Path) -> None:
    recipe = quick(tmp_path, "schedule.epochs=4", "schedule.warmup_epochs=1")
    judge = TrainingEvaluator(recipe, None, tmp_path / "trainings", rungs=(1, 2), device="cpu")
    code = bsszoo.Code.parse(CODE)

    class Tracked:
        def __init__(self, replicate: int = 0) -> None:
            self.replicate, self.reports = replicate, dict[int, float]()

        def report(self, value: float, rung: int) -> None:
            self.reports[rung] = value

        def should_stop(self) -> bool:
            return stops

    def summaries() -> list[tuple[int, int]]:
        files = (tmp_path / "trainings").glob("*/summary.json")
        return sorted((s["epochs"], s["seed"]) for s in (json.loads(f.read_text()) for f in files))

    stops, trial = True, Tracked()
    stopped = judge.evaluate(code, trial)
    assert trial.reports == {0: stopped.value}
    assert summaries() == [(1, 0)]
    stops, trial = False, Tracked()
    score = judge.evaluate(code, trial)
    assert trial.reports == {0: stopped.value}  # only read: it is finished
    assert summaries() == [(1, 0), (2, 0)]
    # A schedule of its own, with the warm-up's share of it, and as a training by a recipe of so many epochs.
    alone = TrainingEvaluator(
        quick(tmp_path, "schedule.epochs=2", "schedule.warmup_epochs=0.5"), None, tmp_path / "alone", device="cpu"
    )
    assert alone(code).value == score.value
    # A code that is judged again goes to the last rung at once; a fresh training is a whole one.
    assert judge.evaluate(code, Tracked(replicate=1)).measures == score.measures
    judge.tested(code, 0)
    assert summaries() == [(1, 0), (2, 0), (2, 1), (4, 1000)]
    assert "after 2 epochs" in judge.info.measures
    assert "judged after 1 epoch each, and leaders are trained for 4 epochs at the end" in judge.info.measures
    assert judge.info.name != TrainingEvaluator(recipe, None, tmp_path / "trainings").info.name
    text = judge.estimate(12, 5, 3, code)
    assert "12 codes trained for 1 epoch, those that go on for 2 epochs, then 18 more" in text


def test_the_rungs_fit_the_recipe(tmp_path: Path) -> None:
    def judge(epochs: int, images: int, **rungs: tuple[int, ...]) -> TrainingEvaluator:
        recipe = quick(tmp_path, f"schedule.epochs={epochs}", f"data.dataset=synthetic/{images}")
        return TrainingEvaluator(recipe, None, tmp_path / "trainings", **rungs)

    # 0.75 of the images in batches of 32.
    assert judge(90, 12_800).fitting_rungs == (10, 30)
    assert judge(90, 3_200).fitting_rungs == ()  # 750 updates
    assert judge(1, 128_000).fitting_rungs == ()  # no shorter one
    short, long = judge(1, 12_800), judge(90, 12_800)
    assert short.caps.depth == 1.25
    assert "Trainings of 300 updates are short" in str(short.info.caution)
    assert (long.caps.depth, long.info.caution) == (None, None)
    assert judge(90, 12_800, rungs=(2, 30)).caps.depth == 1.25
    with pytest.raises(SettingsError, match="--rungs end with 90 epochs; they are shorter than a whole training"):
        judge(90, 12_800, rungs=(10, 90))


def test_the_time_of_a_search_is_estimated_before_it(tmp_path: Path) -> None:
    judge = TrainingEvaluator(quick(tmp_path), None, tmp_path / "trainings", repeats=2, device="cpu")
    code = bsszoo.Code.parse(CODE)
    text = judge.estimate(12, 3, 3, code)
    assert text.startswith(
        "Estimate: 12 codes trained, 2 times each, then 12 more of the best codes and of controls: about"
    )
    assert judge.seconds_of(code) > 0
    # Twice the epochs are twice the updates.
    longer = TrainingEvaluator(quick(tmp_path, "schedule.epochs=2"), None, tmp_path / "trainings", device="cpu")
    assert longer._updates == 2 * judge._updates


def test_images_that_do_not_fill_a_batch_are_said_before_any_training(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"optim\.batch_size is 1024, and the training split has 96 images"):
        TrainingEvaluator(quick(tmp_path, "optim.batch_size=1024"), None, tmp_path / "trainings")
    finish = Finish(quick(tmp_path, "optim.batch_size=1024"), None)
    with pytest.raises(RecipeError, match=r"--finish: optim\.batch_size is 1024"):
        finish.check(bsszoo.Code.parse(CODE))


def test_a_search_whose_trainings_taught_nothing_says_so(tmp_path: Path) -> None:
    judge = TrainingEvaluator(quick(tmp_path), None, tmp_path / "trainings")
    # Four classes, 32 images held out: chance is 25%, with a standard deviation of 7.7 points.
    assert "25.00%, which is what guessing among 4 classes gives" in (judge.doubt(25.0) or "")
    assert judge.doubt(55.0) is not None
    assert judge.doubt(57.0) is None

    class Trained(Evaluator):
        """Its trainings, which would take most of a minute, have been done."""

        info, doubt = judge.info, judge.doubt

        def __init__(self, top1: float) -> None:
            self.top1 = top1

        def evaluate(self, code: bsszoo.Code, trial: Trial) -> Score:
            return Score(self.top1)

    for top1, doubted in ((25.0, True), (57.0, False)):
        run = bsszoo.compress(
            "mobilenetv2",
            flops="20M",
            evaluator=Trained(top1),
            trials=1,
            batch=1,
            measure=False,
            confirm=0,
            out=tmp_path / f"run{top1}",
        )
        assert any("what guessing among 4 classes gives" in n for n in run.notes) == doubted


def test_trainings_that_teach_the_controls_nothing_are_refused_before_any_code_is_judged(tmp_path: Path) -> None:
    judge = TrainingEvaluator(quick(tmp_path), None, tmp_path / "trainings")
    asked: list[bsszoo.Code] = []

    class Trained(Evaluator):
        """Its trainings have been done."""

        info, too_short = judge.info, judge.too_short

        def evaluate(self, code: bsszoo.Code, trial: Trial) -> Score:
            asked.append(code)
            return Score(37.0)

    options = {"flops": "20M", "trials": 2, "measure": False, "confirm": 0, "out": tmp_path / "run"}
    for _ in range(2):  # the same command again is refused again
        with pytest.raises(SettingsError, match=r"too short to judge codes by: after 3 updates .* 37\.00%.*--epochs"):
            bsszoo.compress("mobilenetv2", evaluator=Trained(), **options)
    assert len(asked) == 2  # the original and the uniformly rescaled network, once
    assert judge.too_short([20.0, 41.0]) is None
    assert judge.too_short([]) is None


def test_an_original_that_costs_as_much_as_a_search_is_not_trained(tmp_path: Path) -> None:
    judge = TrainingEvaluator(quick(tmp_path), None, tmp_path / "trainings")
    asked: list[bsszoo.Code] = []

    class Trained(Evaluator):
        """Its trainings have been done."""

        info, compares = judge.info, judge.compares

        def evaluate(self, code: bsszoo.Code, trial: Trial) -> Score:
            asked.append(code)
            return Score(60.0)

    for flops, judged in (("12M", False), ("20M", True)):  # of 300M
        asked.clear()
        run = bsszoo.compress(
            "mobilenetv2", flops=flops, evaluator=Trained(), trials=1, measure=False, confirm=0, out=tmp_path / flops
        )
        original = next(row for row in run.networks if row.role == "original")
        assert (original.code in asked) == (original.score is not None) == judged
        assert any("original network was not judged: with 25 times the budget's MACs" in n for n in run.notes) != judged


@pytest.mark.slow
def test_the_closing_commands_train_the_code_found_on_the_same_images(tmp_path: Path) -> None:
    recipe = quick(tmp_path, "model.in_chans=1", "data.mean=[0.5]", "data.std=[0.2]")
    judge = TrainingEvaluator(recipe, None, tmp_path / "trainings", device="cpu")
    run = bsszoo.compress(
        "mobilenetv2",
        flops="20M",
        evaluator=judge,
        trials=1,
        batch=1,
        measure=False,
        confirm=0,
        out=tmp_path / "run",
        finish=Finish(recipe, None, device="cpu"),
    )
    build, _, train = commands(run.best.code, run.training)
    assert "num_classes=4, in_chans=1" in build.text
    words = train.text.replace("\\\n", " ").split()
    written = read_recipe(Path(words[2]))
    assert words[3:5] == ["--set", f"model.name={run.best.code}"]
    assert (written.model.num_classes, written.data.dataset) == (4, "synthetic/128")
    load, publish = after_training(run.training, run.finished)
    names: dict[str, object] = {}
    exec(load.text, names)
    assert names["model"].num_classes == 4
    assert publish.text.split()[:3] == ["bsszoo", "push", str(tmp_path / "run")]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Load the trained network" in page
    assert "bsszoo train paper:" not in page


def test_a_training_that_fails_keeps_its_log_and_says_where(tmp_path: Path) -> None:
    judge = TrainingEvaluator(quick(tmp_path, "optim.lr=1e30"), None, tmp_path / "trainings", device="cpu")
    with pytest.raises(EvaluationError, match=r"ended with 1: .*The loss of update .*Its log is .*log\.txt"):
        judge(bsszoo.Code.parse(CODE))


@pytest.mark.slow
def test_a_killed_worker_takes_its_training_along_and_another_goes_on_with_it(tmp_path: Path) -> None:
    recipe = quick(tmp_path, "schedule.epochs=40")
    judge = TrainingEvaluator(recipe, None, tmp_path / "trainings", device="cpu")
    script = tmp_path / "worker.py"
    script.write_text(
        "import pickle, sys, bsszoo\n"
        "judge = pickle.loads(open(sys.argv[1], 'rb').read())\n"
        f"judge(bsszoo.Code.parse({CODE!r}))\n"
    )
    import pickle

    (tmp_path / "judge.pkl").write_bytes(pickle.dumps(judge))
    worker = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "judge.pkl")], env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    out = judge.training_folder(bsszoo.Code.parse(CODE), 0)
    while not (out / "metrics.csv").exists() or len((out / "metrics.csv").read_text().splitlines()) < 3:
        assert worker.poll() is None
        time.sleep(0.02)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    for _ in range(600):  # the training notices, writes its checkpoint and ends
        if "Stopped after" in (out / "log.txt").read_text():
            break
        time.sleep(0.05)
    assert "Stopped after" in (out / "log.txt").read_text()
    assert not (out / "summary.json").exists()
    judge(bsszoo.Code.parse(CODE))
    assert "resumed after" in (out / "log.txt").read_text()
    assert len(list(csv.DictReader((out / "metrics.csv").open()))) == 40


PAPER = ("resnet18", "resnet50", "mobilenetv2", "efficientnet_b0", "efficientnet_b1")


@pytest.mark.parametrize("family", PAPER)
def test_without_a_recipe_codes_are_trained_as_the_paper_trains_the_family(family: str) -> None:
    made = as_mapping(paper_recipe(family, num_classes=1000, data=DataPart()))
    written = yaml.safe_load((RECIPES / f"{family}.yaml").read_text(encoding="utf-8"))
    for section in ("model", "optim", "schedule", "augment", "loss"):
        assert made[section] == as_mapping(read_recipe(RECIPES / f"{family}.yaml"))[section], section
    assert written["model"]["name"] == family


def test_without_a_recipe_codes_are_trained_at_the_family_s_own_size() -> None:
    sizes = {f: training_recipe(f, None, dataset="synthetic/64").data.image_size for f in FAMILIES}
    others = {"efficientnet_b1": 240, "efficientnet": 380, "efficientnetv2": 384, "tf_efficientnetv2": 384}
    others |= {"mobilenetv4_conv_medium": 256, "mobilenetv4_conv_large": 384, "vit_patch4": 32}
    assert sizes == {f: others.get(f, 224) for f in FAMILIES}


def test_fewer_epochs_keep_the_share_of_the_warm_up(tmp_path: Path) -> None:
    made = training_recipe("mobilenetv2", None, dataset="synthetic/64", epochs=12, image_size=32, subset=0.5)
    assert (made.schedule.epochs, made.schedule.warmup_epochs) == (12, 0.5)
    assert (made.data.holdout, made.data.subset, made.data.image_size) == (0.1, 0.5, 32)
    with pytest.raises(SettingsError, match="--repeats is 0"):
        TrainingEvaluator(quick(tmp_path), None, tmp_path, repeats=0)


@pytest.mark.slow
def test_a_search_by_training_from_the_command_line(tmp_path: Path) -> None:
    quick(tmp_path)  # writes small.yaml
    text = (tmp_path / "small.yaml").read_text().replace("synthetic/256", "synthetic/128")
    (tmp_path / "small.yaml").write_text(text)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "bsszoo",
            "compress",
            "mobilenetv2",
            "--flops",
            "20M",
            "--dataset",
            "synthetic/128",
            "--recipe",
            str(tmp_path / "small.yaml"),
            "--epochs",
            "1",
            "--trials",
            "2",
            "--batch",
            "2",
            "--no-measure",
            "--confirm",
            "1",
            "--out",
            str(tmp_path / "out"),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert (
        "top-1 accuracy [%] on 10% of the training images, held out, after 1 epoch (3 updates of 32 images) at 32 px"
    ) in done.stderr
    rows = list(csv.DictReader((tmp_path / "out" / "trials.csv").open()))
    assert len(rows) == 2
    assert all(0 <= float(r["score"]) <= 100 for r in rows)
    # The trainings are those of the two codes and of the uniform control.
    assert len(list((tmp_path / "out" / "trainings").glob("*/summary.json"))) >= 3
    # Both codes are leaders, and beside them the uniformly rescaled network and a random code stand, one training each.
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    tested = {row["label"]: row for row in result["confirmation"]["networks"]}
    assert sorted(tested) == ["found 1", "found 2", "random 1", "uniform"]
    assert all(len(row["tests"]) == len(row["held"]) == 1 for row in tested.values())
    # The one of the best result on the images that codes are judged by is delivered, with the weights of that training.
    best = max((row for row in tested.values() if "random" not in row["label"]), key=lambda row: row["held"][0])
    assert result["recommended"]["code"] == best["code"]
    assert result["recommendation"] in " ".join(done.stdout.split())
    network = bsszoo.create(f"local-dir:{tmp_path / 'out' / 'recommended'}", pretrained=True).eval()
    summary = json.loads((tmp_path / "out" / "recommended" / "summary.json").read_text())
    assert summary["test_top1"] == best["tests"][0] == result["recommended"]["test_accuracy"]
    assert code_cost(bsszoo.Code.parse(best["code"])).macs == best["macs"] == result["recommended"]["macs"]
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 4)
    assert resolve(str(tmp_path / "out")).source == f"local-dir:{tmp_path / 'out' / 'recommended'}"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--epochs", "3"), "give the images with --data"),
        (("--finish", "paper"), "--finish trains the best code: give the images with --data"),
        (("--teacher", "a1_in1k"), "give a recipe with --finish"),
        (("--dataset", "synthetic/128", "--evaluator", "mine:judge"), "give one of the two"),
        (("--dataset", "synthetic/128", "--repeats", "0"), "--repeats is 0"),
        (("--rungs", "4,12"), "give the images with --data"),
        (("--dataset", "synthetic/128", "--rungs", "12,4"), "rising numbers of epochs, such as 4,12"),
        (("--dataset", "synthetic/128", "--rungs", "some"), "rising numbers of epochs"),
        (("--dataset", "synthetic/128", "--evaluator", "structural", "--rungs", "4"), "trained from scratch"),
        (("--confirm", "-1"), "--confirm is -1"),
        (("--data", "nowhere"), "There is no nowhere"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: tuple[str, ...], words: str) -> None:
    done = CliRunner().invoke(app, ["compress", "mobilenetv2", "--flops", "130M", *options])
    assert isinstance(done.exception, BssZooError)
    assert words in str(done.exception)


@pytest.mark.extended
def test_what_a_confirmation_measures_has_other_seeds_and_the_unseen_split(tmp_path: Path) -> None:
    judge = TrainingEvaluator(quick(tmp_path), None, tmp_path / "trainings", device="cpu")
    code = bsszoo.Code.parse(CODE)
    judge(code)
    tested = judge.tested(code, 1)
    [fresh] = [f for f in (tmp_path / "trainings").glob("*/summary.json") if "_seed1001" in str(f)]
    summary = json.loads(fresh.read_text())
    assert (summary["test_top1"], summary["top1"]) == tested
    assert (summary["seed"], summary["tested_on"]) == (1001, "validation")
    assert (summary["val_pictures"], summary["test_pictures"]) == (32, 32)
    searched = json.loads((judge.training_folder(code, 0) / "summary.json").read_text())
    assert "test_top1" not in searched


def test_a_training_s_log_says_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bsszoo.evaluators.trainings._LOOK_SECONDS", 0.01)
    judge = TrainingEvaluator(quick(tmp_path), None, tmp_path / "trainings", device="cpu")
    code = bsszoo.Code.parse(CODE)
    # What the progress of a training prints into a file, here of an earlier process of the same training.
    log = judge.training_folder(code, 0) / "log.txt"
    log.parent.mkdir(parents=True)
    with log.open("w") as file:
        bars = Bars(Console(file=file))
        bars._last -= 100  # lines are seconds apart
        bars.show("epoch 1/2", 1200, 2500, unit="updates", words="loss 1.0")
    heard: list[tuple[int, int]] = []
    with listening(lambda *updates: heard.append(updates)):
        judge.accuracies(code)
    assert set(heard) == {(1200, 2500)}
    tell(1, 2)
    assert (1, 2) not in heard
