"""Subnetworks of a trained module, judged and fine-tuned by the user's own functions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
import torchvision
from torch import nn
from torch.nn.functional import cross_entropy

import bsszoo
from bsszoo.codes import Code
from bsszoo.errors import SettingsError
from bsszoo.evaluators.base import Untracked
from bsszoo.evaluators.own import NetworkFunctions
from bsszoo.evaluators.registry import Request
from bsszoo.models.build import build
from bsszoo.models.resolve import resolve, with_weights
from bsszoo.options import TrainingOptions

pytestmark = pytest.mark.usefixtures("no_plots")

CODE = Code.parse("resnet18_c8-16-16-24_l1-2-1-1_px16")
SMALLER = Code.parse("resnet18_c8-12-12-16_l1-1-1-1_b8-12-16-16_px16")


def stripes(number: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy images [n, 3, 16, 16] of stripes in one of three directions, and which one [n]."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (number,), generator=generator)
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    waves = torch.stack([x, y, x + y])[labels]
    phase = 6 * torch.rand((number, 1, 1), generator=generator)
    images = torch.sin(waves + phase)[:, None].expand(-1, 3, -1, -1)
    return images + torch.randn((number, 3, 16, 16), generator=generator), labels


TRAIN, HELD, TEST = stripes(600, 0), stripes(200, 1), stripes(200, 2)


def fit(network: nn.Module, updates: int, rate: float) -> None:
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    for _ in range(updates):
        rows = torch.randint(0, 600, (50,))
        optimizer.zero_grad()
        cross_entropy(network(TRAIN[0][rows]), TRAIN[1][rows]).backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def right(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    return 100 * float((network(images).argmax(1) == labels).float().mean())


def evaluate(network: nn.Module) -> float:
    """Accuracy [%] on 200 stripes."""
    assert not network.training
    return right(network, *HELD)


def on_test(network: nn.Module) -> float:
    """Accuracy [%] on 200 others."""
    return right(network, *TEST)


CALLS: list[float] = []


def fine_tune(network: nn.Module, share: float) -> None:
    assert network.training
    CALLS.append(share)
    fit(network, max(2, round(40 * share)), 0.01)


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    torch.manual_seed(0)
    network = build(CODE, num_classes=3)
    fit(network, 80, 0.05)
    assert right(network.eval(), *TEST) > 90
    return network


def judge_of(network: nn.Module, folder: Path, **given: Any) -> Any:
    functions = NetworkFunctions(given.pop("evaluate", evaluate), given.pop("fine_tune", fine_tune), **given)
    found = with_weights(resolve(network), folder)
    return functions.requested(Request(found, TrainingOptions(), folder))


def test_a_module_is_compressed_by_the_users_functions(trained: nn.Module, tmp_path: Path) -> None:
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*TRAIN), batch_size=50, shuffle=True)
    out = tmp_path / "run"
    settings: dict[str, Any] = {
        "flops": "60%",
        "evaluate": evaluate,
        "fine_tune": fine_tune,
        "test": on_test,
        "images": loader,
        "trials": 5,
        "batch": 3,
        "confirm": 2,
        "measure": False,
        "onnx": True,
        "out": out,
    }
    before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    result = bsszoo.compress(trained, **settings)
    written = json.loads((out / "result.json").read_text())
    assert written["original"]["test_accuracy"] == pytest.approx(on_test(trained.eval()))
    assert written["evaluator"]["measures"].startswith("Accuracy [%] on 200 stripes")
    assert result.recommendation is not None
    # What is delivered is what the figures are of; its best training is the one that is taken.
    take = result.confirmed(result.recommended.code)
    assert take is not None
    network: Any = bsszoo.create(f"local-dir:{out / 'recommended'}", pretrained=True).eval()
    assert resolve(out / "recommended").code == result.recommended.code
    assert evaluate(network) == pytest.approx(max(take.held))
    assert evaluate(result.build().eval()) == pytest.approx(max(take.held))
    assert on_test(network) == pytest.approx(take.tests[take.held.index(max(take.held))])
    session = onnxruntime.InferenceSession(str(out / written["recommended"]["onnx"]))
    (outputs,) = session.run(None, {"images": TEST[0].numpy()})
    with torch.no_grad():
        assert torch.allclose(torch.from_numpy(outputs), network(TEST[0]), atol=1e-4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.state_dict().items())
    # Nothing is judged, trained or exported again.
    number, exported = len(CALLS), (out / written["recommended"]["onnx"]).stat().st_mtime_ns
    again = bsszoo.compress(trained, **settings)
    assert len(CALLS) == number
    assert (out / written["recommended"]["onnx"]).stat().st_mtime_ns == exported
    assert again.trials == result.trials
    assert again.confirmation == result.confirmation


def test_a_module_of_torchvision_keeps_its_function(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(num_classes=3)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(module.weight, 0.5, 1.5)
    judge = judge_of(theirs, tmp_path)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(judge.shared().network(images), theirs.eval()(images), atol=1e-4)


def test_codes_are_judged_after_a_share_of_a_fine_tuning(trained: nn.Module, tmp_path: Path) -> None:
    CALLS.clear()
    judge = judge_of(trained, tmp_path, images=TRAIN[0])
    notes: list[str] = []
    judge.prepare(notes.append)
    assert notes == [f"The network as it is: {evaluate(trained.eval()):.4g} (Accuracy [%] on 200 stripes)."]
    trial = Untracked()
    judge.evaluate(SMALLER, trial)
    assert list(trial.reports) == [0]
    assert trial.reports[0] > 40, "inherited and fitted, it stands above guessing"
    judge.tested(SMALLER, 0)
    assert CALLS == [0.1, 1.0]
    # Its estimate judges a code, which is not judged again.
    assert judge.estimate(12, 4, 3, SMALLER).startswith("Estimate: 12 codes, about 4 of them")
    judge.evaluate(SMALLER, Untracked())
    assert len(CALLS) == 3


def test_without_images_or_a_share_each_code_is_inherited_and_trained_in_full(
    trained: nn.Module, tmp_path: Path
) -> None:
    def whole(network: nn.Module) -> nn.Module:
        fit(network, 20, 0.01)
        return network

    judge = judge_of(trained, tmp_path, fine_tune=whole)
    trial = Untracked()
    assert judge.evaluate(SMALLER, trial).value > 50
    assert trial.reports == {}
    assert "all fine-tuned" in judge.estimate(12, 4, 3, SMALLER)


def test_costs_are_counted_at_the_size_of_the_images(tmp_path: Path) -> None:
    theirs = torchvision.models.resnet18(num_classes=3)
    found = resolve(theirs)
    assert found.code.image_size == 224
    judge = judge_of(theirs, tmp_path, images=torch.randn(8, 3, 64, 64))
    assert judge.original.image_size == judge.searched(found).code.image_size == 64
    assert (
        judge.space(judge.searched(found)).cost(judge.original).macs == bsszoo.cost("resnet18", 64, num_classes=3).macs
    )
    assert judge_of(theirs, tmp_path, images=torch.randn(8, 3, 64, 96)).original.image_size == 224


def test_the_same_seed_gives_the_same_score(trained: nn.Module, tmp_path: Path) -> None:
    scores = [judge_of(trained, tmp_path, images=TRAIN[0])(SMALLER).value for _ in range(2)]
    assert scores[0] == scores[1]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"evaluate": evaluate}, "fine_tune is None; it takes a function of a network. evaluate and fine_tune belong"),
        ({"fine_tune": fine_tune}, "evaluate is None"),
        ({"test": on_test}, "test and images belong to evaluate and fine_tune"),
        ({"evaluate": evaluate, "fine_tune": fine_tune, "data": "pictures"}, "take the place of data"),
        ({"evaluate": evaluate, "fine_tune": fine_tune, "evaluator": "structural"}, "give one of the two"),
        ({"evaluate": evaluate, "fine_tune": fine_tune, "workers": 2}, "workers is 1"),
        ({"onnx": True}, "--onnx writes the recommended network, which is trained where"),
        ({"evaluate": lambda _: "good", "fine_tune": fine_tune}, "evaluate failed on the network itself"),
        ({"evaluate": evaluate, "fine_tune": fine_tune, "images": [TRAIN[1]]}, "images gives 'Tensor'"),
        ({"evaluate": evaluate, "fine_tune": fine_tune, "images": []}, "images gives no image"),
    ],
)
def test_what_does_not_go_together_is_refused(
    given: dict[str, Any], text: str, trained: nn.Module, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=text.replace("(", r"\(")):
        bsszoo.compress(trained, flops="60%", trials=1, out=tmp_path / "run", **given)


def test_a_network_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="comes without weights"):
        bsszoo.compress(str(CODE), flops="60%", evaluate=evaluate, fine_tune=fine_tune, out=tmp_path / "run")
