"""Whatever a ``config.json`` holds, a network comes out, or one text that names the file: a seeded, bounded fuzzer."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file
from torch import nn

import bsszoo
from bsszoo.codes.code import Code
from bsszoo.errors import BssZooError, WeightsError
from bsszoo.hub.push import push
from bsszoo.models.build import input_config
from bsszoo.models.create import create
from bsszoo.models.detector import saved_detector
from bsszoo.models.resolve import resolve

CODE = "resnet18_c8-8-8-8_l1-1-1-1"
DETECTOR = "retinanet_fpn8_resnet18_c8-8-8-8_l1-1-1-1"
CONFIG: dict[str, Any] = {
    "architecture": "bsszoo_code",
    "num_classes": 3,
    "num_features": 8,
    "global_pool": "avg",
    "model_args": {
        "code": {"family": "resnet18", "widths": [8] * 4, "depths": [1] * 4, "stem_width": 8, "image_size": 64},
        "in_chans": 3,
    },
    "pretrained_cfg": {
        "tag": "x",
        "custom_load": False,
        "input_size": [3, 32, 32],
        "fixed_input_size": False,
        "interpolation": "bilinear",
        "crop_pct": 0.875,
        "crop_mode": "center",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.2, 0.2, 0.2],
        "num_classes": 3,
        "pool_size": [7, 7],
        "first_conv": "conv1",
        "classifier": "fc",
        "license": "mit",
        "label_offset": None,
        "notes": None,
        "paper_ids": ["a"],
        "min_input_size": None,
    },
    "label_names": ["a", "b", "c"],
    "label_descriptions": {"a": "A", "b": "B", "c": "C"},
    "bsszoo": {"code": {"family": "resnet18", "widths": [8] * 4, "depths": [1] * 4}, "version": "0.1.0"},
}
DETECTORS: dict[str, Any] = {
    "architecture": "retinanet",
    "num_classes": 2,
    "bsszoo": {
        "detector": DETECTOR,
        "p6_from": "c5",
        "norm": "batch",
        "settings": {"min_size": 64, "max_size": 96, "anchor_size": 16},
        "labels": {"ids": [1, 2], "names": ["a", "b"]},
    },
}


def deep(levels: int) -> Any:
    value: Any = 1
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return value


ODD: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    3,
    1000,
    65536,
    10**9,
    10**30,
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "resnet18",
    "mobilenetv2",
    "resnet50",
    CODE,
    "resnet18{8,8,8,8,1,1,1,1}",
    "../../etc/passwd",
    "\x1b[2J",
    "\ud800",
    "9" * 5000,
    "nearest",
    "random",
    [],
    [None],
    ["a", 1],
    [3, 32, 32],
    [3, 10**6, 10**6],
    [1] * 4,
    [10**5] * 4,
    [[[8]]] * 4,
    ["8"] * 4,
    [float("nan")] * 3,
    [0.0] * 3,
    {},
    {"a": 1},
    {"code": CODE},
    {"family": "resnet18"},
    {"family": ["resnet18"], "widths": {}, "depths": {}},
    {"family": "resnet18", "widths": [8] * 4, "depths": [1] * 4, "unknown": 1},
    deep(20),
    deep(95),
    deep(200),
]


def locations(value: Any) -> list[tuple[Any, Any]]:
    """Every (object or list, key in it) of a value."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [location for key in keys for location in ((value, key), *locations(value[key]))]


def damaged(config: dict[str, Any], chance: random.Random) -> str:
    """The text of a configuration with one to three changes."""
    data = json.loads(json.dumps(config))
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        container, key = chance.choice(locations(data) or [(data, "architecture")])
        change = chance.random()
        if change < 0.2:
            del container[key]
        elif change < 0.3 and isinstance(container, dict):
            container[chance.choice(("x", "", "code", "input_size", "label_names", "detector"))] = chance.choice(ODD)
        elif change < 0.35:
            container[key] = json.loads(json.dumps(data))
        else:
            container[key] = chance.choice(ODD)
    text = json.dumps(data)
    if chance.random() < 0.08:  # damage to the text itself
        cut = chance.randrange(len(text))
        text = text[:cut] + chance.choice(("", "\\u0000", "}", "[" * 3000, "9" * 6000, "\u00ff")) + text[cut + 1 :]
    return text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("net")
    save_file(
        {k: v.contiguous() for k, v in create(CODE, num_classes=3).state_dict().items()}, made / "model.safetensors"
    )
    return made


def outcome(act: Callable[[], object], text: str) -> str:
    """What became of a call; anything but success and an error of ours in bounds fails the test."""
    message = ""
    try:
        act()
    except BssZooError as error:
        message = str(error)
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {error} of {text[:2000]}") from error
    assert len(message) < 1500, (len(message), text[:500])
    assert message.isprintable(), (message, text[:500])
    assert not message or "code" in message.lower() or "config.json" in message or "weights" in message, (
        message,
        text[:500],
    )
    return "refused" if message else "done"


@pytest.mark.parametrize("seed", range(6))
def test_any_configuration_is_a_network_or_one_text(seed: int, folder: Path, tmp_path: Path) -> None:
    chance, seen = random.Random(seed), {"done": 0, "refused": 0}
    source = f"local-dir:{folder}"

    def whole() -> None:
        network: nn.Module = create(source, pretrained=True)
        assert isinstance(input_config(network), dict)

    acts: list[Callable[[], object]] = [
        lambda: resolve(source),
        lambda: resolve(folder / "model.safetensors"),
        whole,
        lambda: create(CODE, pretrained=folder),
        lambda: saved_detector(folder),
    ]
    for number in range(60):
        text = damaged(CONFIG, chance)
        (folder / "config.json").write_text(text, encoding="utf-8", errors="surrogatepass")
        for act in acts:
            seen[outcome(act, text)] += 1
        if number % 20 == 0:
            outcome(lambda: push(folder, "me/net", dry_run=tmp_path / "card"), text)
    assert min(seen.values()) > 30, seen


def test_any_configuration_of_a_detector_is_one_or_one_text(tmp_path: Path) -> None:
    chance, seen = random.Random(0), {"done": 0, "refused": 0}
    for _ in range(60):
        text = damaged(DETECTORS, chance)
        (tmp_path / "config.json").write_text(text, encoding="utf-8", errors="surrogatepass")
        seen[outcome(lambda: saved_detector(tmp_path), text)] += 1
        outcome(lambda: create(f"local-dir:{tmp_path}"), text)
    assert min(seen.values()) > 10, seen


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pretrained_cfg": {"input_size": [3, 20_000, 20_000]}}, "its input_size is [3, 20000, 20000]"),
        ({"pretrained_cfg": {"input_size": ["3", 32, 32]}}, "its input_size is ['3', 32, 32]"),
        ({"pretrained_cfg": {"mean": [float("nan")] * 3}}, "its mean is [nan, nan, nan]"),
        ({"pretrained_cfg": {"std": [0, 0, 0]}}, "its std is [0, 0, 0]"),
        ({"pretrained_cfg": {"interpolation": "magic"}}, "its interpolation is 'magic'"),
        ({"pretrained_cfg": []}, "no configuration of timm's"),
        ({"num_classes": "3"}, "its num_classes is '3'"),
        ({"num_classes": 10**7}, "its num_classes is 10000000"),
        ({"num_classes": True}, "its num_classes is True"),
        ({"label_names": ["a", 2, "c"]}, "its label_names is"),
        ({"label_names": ["a", "b"]}, "2 label_names for 3 classes"),
        ({"label_names": {"0": "a"}}, "its label_names is"),
        ({"num_classes": 10**40}, "a whole number of 41 digits"),
        ({"x": deep(200)}, "nested too deeply"),
        ({"model_args": {"code": {"family": "nothing", "widths": [8], "depths": [1]}}}, "impossible code"),
        ({"model_args": {"code": {"family": "resnet18", "widths": [8] * 100_000, "depths": [1]}}}, "impossible code"),
    ],
)
def test_errors_name_the_wrong_entry(changes: dict[str, Any], message: str, folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    with pytest.raises(WeightsError) as refused:
        create(f"local-dir:{folder}", pretrained=True)
    assert message in str(refused.value)
    assert str(folder) in str(refused.value)
    assert len(str(refused.value)) < 1000


def test_a_file_that_is_no_text_or_has_no_end_is_named(folder: Path) -> None:
    for data in (b"\xff\xfe{}", b"", b"[]", b"[" * 200_000, b'{"a": "' + b"x" * (1 << 24) + b'"}'):
        (folder / "config.json").write_bytes(data)
        with pytest.raises(WeightsError, match=r"The config\.json of .* is broken"):
            create(f"local-dir:{folder}")


def test_nulls_are_what_timm_takes_by_default(folder: Path) -> None:
    config = {**CONFIG, "pretrained_cfg": dict.fromkeys(CONFIG["pretrained_cfg"])}
    (folder / "config.json").write_text(json.dumps(config))
    network: Any = create(f"local-dir:{folder}", pretrained=True)
    assert network.default_cfg["input_size"] == (3, 64, 64)  # the code's
    assert bsszoo.Code.parse(str(resolve(f"local-dir:{folder}").code)) == Code.parse(f"{CODE}_px64")
