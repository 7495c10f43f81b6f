"""The network of the zoo that is nearest to tensors, by names and by kinds of convolutions."""

from __future__ import annotations

import pytest
import timm
import torch
from strategies import VITS

from bsszoo.codes.named import named_entries
from bsszoo.models.nearest import nearest, obstacles, shapes_of

TIMMS = [entry for entry in named_entries().values() if entry.timm is not None]


@pytest.mark.parametrize("entry", TIMMS, ids=lambda entry: entry.name)
def test_the_tensors_of_a_layer_list_are_timms_and_are_nearest_to_themselves(entry) -> None:
    state = timm.create_model(entry.timm, device=torch.device("meta")).state_dict()
    shapes = {name: tuple(t.shape) for name, t in state.items() if not name.endswith("num_batches_tracked")}
    assert shapes_of(entry.code, 1000, 3) == shapes
    near = nearest(shapes)
    assert near is not None
    assert (near.share, near.by, near.unlike) == (pytest.approx(1.0), "names", ())
    # ViTs differ in the sizes of patches only.
    of_vits = near.family in VITS and entry.code.family in VITS
    assert near.family == entry.code.family or near.family.startswith("efficientnet") or of_vits
    assert obstacles(shapes) == []
    # Under other names the convolutions still tell the family, or one with the same ones.
    renamed = {f"part_{i}.weight" if len(shape) == 4 else f"part_{i}": shape for i, shape in enumerate(shapes.values())}
    near = nearest(renamed)
    assert near is not None
    assert (near.share, near.by) == (pytest.approx(1.0), "kinds")


@pytest.mark.parametrize(
    ("name", "family"),
    [("resnet50d", "resnet50"), ("seresnext26d_32x4d", "seresnext"), ("mobilenetv2_120d", "mobilenetv2")],
)
def test_a_variant_is_nearest_to_its_family(name: str, family: str) -> None:
    state = timm.create_model(name, device=torch.device("meta")).state_dict()
    near = nearest({key: tuple(t.shape) for key, t in state.items()})
    assert near is not None
    assert (near.family, near.by) == (family, "names")


def test_what_no_family_has_is_listed() -> None:
    near = nearest({"a.weight": (8, 4), "b": (3,)})
    assert near is None
    words = obstacles(
        {
            "norm.weight": (8,),
            "fc.weight": (8, 4),
            "head.weight": (10, 8),
            "row.weight": (8, 8, 1, 7),
            "conv.weight": (8, 8, 1, 1),
            "bn.weight": (8,),
            "bn.running_mean": (8,),
        }
    )
    assert [text.split(" (")[0] for text in words] == [
        "normalisation other than batch normalisation behind convolutions without a bias",
        "attention, or linear layers outside blocks of convolutions",
        "convolutions that are not square and two-dimensional",
    ]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("convnext_tiny_hnf", []),  # layer normalisation and linear layers on each pixel are a ConvNeXt's
        ("resnet50_gn", ["normalisation other"]),
        ("swin_tiny_patch4_window7_224", ["attention"]),
        ("mixer_s32_224", ["attention"]),
        ("maxvit_nano_rw_256", ["normalisation other", "attention"]),
        ("inception_v3", ["convolutions that are not square"]),
    ],
)
def test_what_a_network_of_timm_has_that_no_family_has(name: str, words: list[str]) -> None:
    with torch.device("meta"):
        state = timm.create_model(name).state_dict()
    found = obstacles({key: tuple(t.shape) for key, t in state.items()})
    assert len(found) == len(words)
    assert all(text.startswith(start) for text, start in zip(found, words, strict=True))
