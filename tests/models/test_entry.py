"""Names, codes as text, the list of models; and that the data agrees with timm."""

from __future__ import annotations

import subprocess
import sys

import pytest
import timm
from strategies import CONVNEXTS, VITS
from timm.models import get_arch_pretrained_cfgs, get_pretrained_cfg

import bsszoo
from bsszoo.codes import Code, code_cost
from bsszoo.errors import CodeError, UnknownNameError
from bsszoo.models.names import entries, entry_of, find, list_models, resolve_code, split_tag
from bsszoo.models.resolve import cost

ENTRIES = list(entries().values())
AUTOBSS = "mobilenetv2_c24-40-64-96-120-240_l4-3-2-3-6-2_t3-6-6-3-6-6"


def test_names_and_codes_are_distinct() -> None:
    assert (
        len({entry.code for entry in ENTRIES})
        == len(ENTRIES)
        == len(entries())
        == 20 + 7 + 12 + 6 + 10 + 9 + 5 + 7 + 6 + 9 + 14 + 5 + 3 + 19
    )
    assert len({tag.repository for entry in ENTRIES for tag in entry.tags}) == sum(len(e.tags) for e in ENTRIES)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_entry_is_found_by_each_of_its_names(entry) -> None:
    forms = [entry.name, entry.name.upper(), str(entry.code), entry.code]
    forms += [f"{entry.name}.{tag.tag}" for tag in entry.tags]
    for form in forms:
        assert resolve_code(form) == entry.code
    assert find(entry.name) is entry_of(entry.code) is entry


@pytest.mark.parametrize(
    "text",
    [
        "mobilenetv2{24,40,64,96,120,240,4,3,2,3,6,2,3,6,6,3,6,6}",
        "mobilenetv2 {24,40,64,96,120,240, 4,3,2,3,6,2,3,6,6,3,6,6}",
        "mobilenetv2 24 40 64 96 120 240 4 3 2 3 6 2 3 6 6 3 6 6",
        AUTOBSS,
        "mobilenetv2_autobss.in1k",
        " mobilenetv2_autobss ",
    ],
)
def test_forms_of_one_code(text: str) -> None:
    assert str(resolve_code(text)) == AUTOBSS


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        ("resnet50_autobs", UnknownNameError, "'resnet50_autobss'"),
        ("resnet19", UnknownNameError, "There is no model 'resnet19' in the zoo. Did you mean 'resnet18'"),
        ("", UnknownNameError, "There is no model ''"),
        ("resnet50.a1_in1", UnknownNameError, "no weights tagged 'a1_in1'. Did you mean 'a1_in1k'"),
        ("resnet50_retinanet_autobss_printed.in1k", UnknownNameError, "nor any others"),
        ("resnet18{64,128,256,512,2,2,2}", CodeError, "8 entries"),
        ("mobilenetv3_c8-8_l1-1", CodeError, "starts with no family's name"),
        (18, CodeError, "got 18 of type int"),
        (None, CodeError, "NoneType"),
    ],
)
def test_unknown_names_are_errors(value: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error) as raised:
        resolve_code(value)  # type: ignore[arg-type]
    assert words in str(raised.value)


def test_split_tag() -> None:
    assert split_tag("resnet50.a1_in1k") == ("resnet50", "a1_in1k")
    assert split_tag("resnet50") == ("resnet50", None)
    assert split_tag("DeiT_tiny.fb_in1k") == ("deit_tiny_patch16_224", "fb_in1k")


def test_list_models() -> None:
    names = list(entries())
    assert list_models() == names
    assert bsszoo.list_models("*AutoBSS") == [n for n in names if n.endswith("autobss")]
    assert list_models(family="resnet18") == ["resnet18", "resnet18_rand", "resnet18_autobss", "resnet34"]
    assert list_models("*_13?m_*", family="mobilenetv2") == ["mobilenetv2_130m_uniform", "mobilenetv2_130m_autobss"]
    assert list_models(pretrained=True)[:9] == [
        "resnet18",
        "resnet50",
        "mobilenetv2",
        "efficientnet_b0",
        "efficientnet_b1",
        "resnet34",
        "resnet26",
        "resnet101",
        "resnet152",
    ]
    assert list_models("efficientnet_b?", pretrained=True) == [f"efficientnet_b{i}" for i in range(6)]
    assert list_models("*wide*") == ["wide_resnet50_2", "wide_resnet101_2"]
    assert list_models("regnet*", pretrained=True) == [
        f"regnet{kind}_{size}" for kind in "xy" for size in ("002", "004", "006", "008", "016", "032")
    ]
    assert set(list_models(pretrained=False)) == set(names) - set(list_models(pretrained=True))
    assert list_models("nothing*") == []
    with pytest.raises(UnknownNameError, match="efficientnet_b0"):
        list_models(family="efficientnet_b2")


def test_cost_of_names_and_codes() -> None:
    entry = find("efficientnet_b1_autobss")
    assert cost("efficientnet_b1_autobss") == cost(str(entry.code)) == bsszoo.cost(entry.code) == entry.cost
    assert cost(entry.code, 64, num_classes=10, in_chans=1) == code_cost(entry.code, 64, num_classes=10, in_chans=1)
    assert cost("resnet18", (64, 96)) == code_cost(find("resnet18").code, (64, 96))


@pytest.mark.parametrize("entry", [e for e in ENTRIES if e.timm], ids=lambda entry: entry.name)
def test_tags_of_the_originals_are_timms(entry) -> None:
    configs = get_arch_pretrained_cfgs(entry.timm)
    assert timm.is_model(entry.timm)
    assert {f"{entry.timm}.{tag.tag}": tag.repository for tag in entry.tags} == {
        # Further ones are of no weights, and of ConvNeXts and ViTs of other classes.
        name: cfg.hf_hub_id
        for name, cfg in configs.items()
        if cfg.hf_hub_id and (entry.code.family not in (*CONVNEXTS, *VITS) or cfg.num_classes == 1000)
    }
    if entry.tags:
        assert entry.tags[0].tag == get_pretrained_cfg(entry.timm).tag
    assert entry.published == bool(entry.tags)


def test_searched_entries_claim_no_weights() -> None:
    searched = [e for e in ENTRIES if e.timm is None]
    assert searched
    for entry in searched:
        assert not entry.published
        assert all(tag.repository == f"bsszoo/{entry.name}.{tag.tag}" for tag in entry.tags)


def test_detector_backbones_have_the_stride_on_the_first_convolution() -> None:
    for name in ("resnet50_maskrcnn_autobss", "resnet50_retinanet_autobss", "resnet50_retinanet_autobss_printed"):
        assert (find(name).code.stride_in, find(name).code.image_size) == ("1x1", 800)
    corrected, as_printed = find("resnet50_retinanet_autobss").code, find("resnet50_retinanet_autobss_printed").code
    assert (corrected.bottlenecks[1], as_printed.bottlenecks[1]) == (96, 192)
    assert Code.from_dict({**as_printed.to_dict(), "bottlenecks": list(corrected.bottlenecks)}) == corrected


def test_our_choice_of_stem_is_said_to_be_ours() -> None:
    for name in ("mobilenetv2_130m_uniform", "mobilenetv2_130m_autobss"):
        assert (find(name).code.stem_width, find(name).code.stage2_width) == (16, 12)
        assert any("our choice" in note for note in find(name).notes)


def test_every_name_of_timm_is_known_as_timms_without_importing_it() -> None:
    theirs = timm.list_models()
    ours = {e.timm for e in ENTRIES} | {e.name for e in ENTRIES} | {"bsszoo_code"}
    for name in [n for n in theirs[:: len(theirs) // 40] if n not in ours]:
        with pytest.raises(UnknownNameError, match=f"timm has '{name}', and bsszoo has not"):
            find(name)
    code = (
        "import sys\nfrom bsszoo.models.names import find\ntry:\n    find('regnety_160')\n"
        "except KeyError as error:\n    print(error)\nprint(sorted({'torch', 'timm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("timm has 'regnety_160'")
    assert done.stdout.endswith("\n[]\n")
