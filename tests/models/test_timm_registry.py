"""``import bsszoo.nets`` makes the networks timm's, and nothing of timm's ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from models.counting import SMALL, small
from timm.models import get_pretrained_cfg, is_model_pretrained, save_for_hf

from bsszoo.codes.named import named_entries
from bsszoo.errors import CodeError
from bsszoo.models.build import build

SEARCHED = [entry for entry in named_entries().values() if entry.timm is None]

REGISTRATION = """
import warnings
warnings.simplefilter("error")
import timm
before = {name: timm.model_entrypoint(name) for name in timm.list_models()}
import bsszoo.nets
after = set(timm.list_models())
assert all(timm.model_entrypoint(name) is fn for name, fn in before.items()), "timm's own names were replaced"
print(*sorted(after - set(before)))
"""


def test_registration_adds_the_searched_names_and_replaces_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", REGISTRATION], check=True, capture_output=True, text=True)
    assert set(done.stdout.split()) == {entry.name for entry in SEARCHED} | {"bsszoo_code"}


def test_list_models_finds_them() -> None:
    assert set(timm.list_models("*autobss*")) == {e.name for e in SEARCHED if "autobss" in e.name}


@pytest.mark.parametrize("entry", SEARCHED, ids=lambda entry: entry.name)
def test_create_model_by_name(entry) -> None:
    net = timm.create_model(entry.name, device="meta", num_classes=11)
    assert net.num_classes == 11
    assert net.default_cfg["architecture"] == entry.name
    assert net.default_cfg["input_size"] == (3, entry.code.image_size, entry.code.image_size)
    net.reset_classifier(1000)
    assert sum(p.numel() for p in net.parameters()) == entry.cost.params
    # timm must not advertise weights that nobody has published.
    assert is_model_pretrained(entry.name) == entry.published
    for tag in entry.tags:
        hub = get_pretrained_cfg(f"{entry.name}.{tag.tag}").hf_hub_id
        assert hub == (tag.repository if tag.published else None)


def test_create_model_by_name_and_tag_and_features() -> None:
    net = timm.create_model("mobilenetv2_130m_autobss.in1k", features_only=True, out_indices=(2, 4))
    assert net.feature_info.reduction() == [8, 32]
    assert [f.shape[-1] for f in net(torch.randn(1, 3, 64, 64))] == [8, 2]
    with pytest.raises(RuntimeError, match="Invalid pretrained tag"):
        timm.create_model("mobilenetv2_130m_autobss.in22k")


@pytest.mark.parametrize("form", ["text", "dict"])
@pytest.mark.parametrize("kind", SMALL)
def test_any_code_travels_in_model_args(kind: str, form: str, tmp_path: Path) -> None:
    code = small(kind)
    value = str(code) if form == "text" else code.to_dict()
    net = timm.create_model("bsszoo_code", code=value, num_classes=4, in_chans=1).eval()
    save_for_hf(net, str(tmp_path), safe_serialization=True)
    assert json.loads((tmp_path / "config.json").read_text())["model_args"]["code"] == value
    assert not (tmp_path / "pytorch_model.bin").exists()
    read = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    x = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(read(x), net(x))
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), read.state_dict().values(), strict=True))


@pytest.mark.parametrize("kind", SMALL)
def test_a_built_network_records_its_code(kind: str, tmp_path: Path) -> None:
    """``bsszoo.create`` and ``build`` do not pass through timm's factory; saving must work all the same."""
    # A ViT has none, and timm's GhostNets have no dilation.
    stride = {} if kind.startswith(("vit", "ghostnet")) else {"output_stride": 16}
    net = build(small(kind), num_classes=3, **stride).eval()
    save_for_hf(net, str(tmp_path), safe_serialization=True)
    read = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(read(x), net(x))


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_autobss"])
def test_a_named_network_is_saved_under_its_name(name: str, tmp_path: Path) -> None:
    entry = named_entries()[name]
    net = build(entry.code, num_classes=3).eval()
    save_for_hf(net, str(tmp_path), safe_serialization=True)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["architecture"] == entry.architecture
    assert "code" not in saved.get("model_args", {})
    read = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(read(x), net(x))


def test_an_original_is_saved_as_timms_own_model(tmp_path: Path) -> None:
    """Someone without bsszoo can load it."""
    save_for_hf(build(named_entries()["resnet18"].code), str(tmp_path), safe_serialization=True)
    script = (
        "import sys, timm; timm.create_model('local-dir:' + sys.argv[1], pretrained=True); "
        "assert 'bsszoo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)


def test_code_in_timm_needs_a_form_that_can_be_saved() -> None:
    with pytest.raises(CodeError, match=r"pass str\(code\)"):
        timm.create_model("bsszoo_code", code=small("resnet18"))
    with pytest.raises(TypeError, match="code"):
        timm.create_model("bsszoo_code")
    with pytest.raises(CodeError, match="no weights tagged 'in1k'"):
        timm.create_model("bsszoo_code.in1k", code=SMALL["resnet18"])


def test_pretrained_of_a_bare_code_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="No pretrained weights exist"):
        timm.create_model("bsszoo_code", code=SMALL["resnet18"], pretrained=True)


def test_timms_training_script_sees_the_codes_own_input_size() -> None:
    """It resolves a name's configuration first, which for this name is timm's bare default of 224 px."""
    from timm.models import resolve_model_input_args

    code = "efficientnet_b1_c24-40-80-112-192-320_l1-1-1-1-1-1_t3-3-3-3-3-3"
    model = timm.create_model(**resolve_model_input_args("bsszoo_code", {}, code=code))
    assert model.default_cfg["input_size"] == (3, 240, 240)
    model = timm.create_model("bsszoo_code", code=code, pretrained_cfg={"input_size": (3, 128, 128), "tag": "mine"})
    assert model.default_cfg["input_size"] == (3, 128, 128)
