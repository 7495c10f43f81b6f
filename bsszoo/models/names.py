"""The zoo's entries and the names of codes and detectors. Loads neither torch nor timm."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from bsszoo.codes.code import Code
from bsszoo.codes.detector import CHANNELS, SIZE, Detector, Kind
from bsszoo.codes.families import FAMILIES, family_of
from bsszoo.codes.named import ModelEntry, Printed, WeightTag, aliases, entry_of, named_entries
from bsszoo.errors import CodeError, UnknownNameError, WeightsError, close_matches, formatted

__all__ = [
    "DETECTORS",
    "ModelEntry",
    "Printed",
    "WeightTag",
    "entries",
    "entry_of",
    "find",
    "find_detector",
    "is_detector",
    "list_models",
    "resolve_code",
    "split_tag",
]

#: Prefix of a folder as a source.
LOCAL: Final = "local-dir:"
#: Prefixes of a network's source: a Hub repository or a folder.
SOURCES: Final = ("hf-hub:", LOCAL)
#: Endings of weights files.
SUFFIXES: Final = (".safetensors", ".pth", ".pt", ".bin", ".tar", ".ckpt")
#: The environment variable that names the organisation in which names are looked up.
ORG_VARIABLE: Final = "BSSZOO_HUB_ORG"
_DETECTOR_PREFIXES: Final = ("maskrcnn_", "retinanet_")
# Parts of timm's names and the network nearest to them; the first match counts.
_NEAREST: Final = (
    ("efficientnetv2", "efficientnetv2_s"),
    ("efficientnet", "efficientnet_b0"),
    ("mobilenetv3", "mobilenetv3_large_100"),
    ("mobilenetv4", "mobilenetv4_conv_medium"),
    ("ghost", "ghostnet_100"),
    ("mobile", "mobilenetv2"),
    ("mnas", "mnasnet_100"),
    ("lcnet", "mobilenetv2"),
    ("fbnet", "mobilenetv2"),
    ("seresnext", "seresnext50_32x4d"),
    ("resnext", "resnext50_32x4d"),
    ("seresnet18", "seresnet18"),
    ("seresnet34", "seresnet34"),
    ("seresnet", "seresnet50"),
    ("resnet34", "resnet34"),
    ("resnet18", "resnet18"),
    ("resnet101", "resnet101"),
    ("resnet10", "resnet18"),
    ("resnet14", "resnet18"),
    ("regnet", "regnety_008"),
    ("convnextv2", "convnextv2_tiny"),
    ("convnext", "convnext_tiny"),
    ("deit", "deit_tiny_patch16_224"),
    ("vit_", "vit_tiny_patch16_224"),
    ("repvgg", "resnet18"),
    ("vgg", "resnet18"),
)
# Only a code's text has: a bracket, a comma, blanks between numbers, or the word of its widths.
_CODE_TEXT = re.compile(r"[{}\[\](),]|\d\s+\d|_c\d+(-\d+)+(_|$)", re.IGNORECASE)


def entries() -> Mapping[str, ModelEntry]:
    """All entries by name, in the order of the paper's tables (read-only)."""
    return named_entries()


def split_tag(name: str) -> tuple[str, str | None]:
    """The name and the tag of ``name.tag``; the tag is None when there is none. A short name gives the whole one."""
    head, dot, tag = name.strip().partition(".")
    return aliases().get(head.lower(), head), (tag if dot else None)


def find(name: str) -> ModelEntry:
    """The entry with this name or short name; ``name.tag`` is accepted too, and the tag must be the entry's.

    Raises:
        UnknownNameError: There is no such entry or tag; the text gives close matches.
    """
    models = entries()
    head, tag = split_tag(name)
    entry = models.get(head) or models.get(head.lower())
    if entry is None:
        raise UnknownNameError(
            _timm_hint(head)
            or (
                f"There is no model {formatted(head)} in the zoo.{close_matches(head, models)} "
                "A code's text works as well, for example 'resnet18{64,128,256,512,2,2,2,2}'."
            )
        )
    if tag is not None and tag not in (tags := [t.tag for t in entry.tags]):
        raise UnknownNameError(
            f"{entry.name} has no weights tagged {tag!r}.{close_matches(tag, tags)}"
            if tags
            else f"{entry.name} has no weights tagged {tag!r}, nor any others."
        )
    return entry


def _timm_hint(name: str) -> str:
    """The message for a name that is timm's and not the zoo's; empty for any other."""
    wanted = name.lower()
    same = next((e.name for e in entries().values() if e.timm == wanted), None)
    if same is not None:
        return (
            f"{wanted!r} is timm's name of a network that bsszoo calls {same!r}: the same layers and weights' "
            "names. Give that name."
        )
    if not is_timms(wanted):
        return ""
    near = next((family for part, family in _NEAREST if part in wanted), "resnet50")
    return (
        f"timm has {wanted!r}, and bsszoo has not: it is in none of the {len(FAMILIES)} families whose stacking bsszoo "
        f"counts, builds and compresses (`bsszoo list`). The nearest of them is {near!r}. The network itself is "
        f"timm.create_model({wanted!r}); for what bsszoo does, choose one of the list or a code of a family, or add a "
        "family of its own (docs/own-family.md)."
    )


@cache
def is_timms(name: str) -> bool:
    """Whether timm's sources register a network of this name.

    They are read, not imported: a typo is answered at once, where importing timm and torch takes seconds.
    """
    timm = find_spec("timm")
    folders = (timm.submodule_search_locations or []) if timm is not None else []
    if not name.isidentifier():
        return False
    entrypoint = re.compile(rf"@register_model\s+def {name}\(")
    return any(
        entrypoint.search(file.read_text(encoding="utf-8"))
        for folder in folders
        for file in Path(folder, "models").glob("*.py")
    )


def hub_org(org: str | None) -> str | None:
    """The organisation in which names are looked up: ``org``, else that of ``BSSZOO_HUB_ORG``, else None.

    Raises:
        WeightsError: It is no name of an organisation or user.
    """
    name = org if org is not None else os.environ.get(ORG_VARIABLE) or None
    if name is not None and not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,94}[A-Za-z0-9])?", name):
        where = "org" if org is not None else ORG_VARIABLE
        raise WeightsError(f"{where} is {name!r}, which is no name of an organisation or user of the Hub.")
    return name


def is_detector(name: str) -> bool:
    """Whether a name begins with a kind of detector; the rest may be invalid."""
    return name.strip().lower().startswith(_DETECTOR_PREFIXES)


def no_classifier(detector: str) -> UnknownNameError:
    """The error for a detector where a classifier is needed."""
    return UnknownNameError(
        f"{detector} is a detector, and this takes classifiers. Detectors are taken by bsszoo.create and bsszoo.cost, "
        "and by bsszoo show, cost, compress, train, validate and predict."
    )


def resolve_code(name_or_code: str | Code) -> Code:
    """The code that a zoo name, ``name.tag``, a code's text (canonical or the paper's flat form) or a code means.

    Raises:
        UnknownNameError: The text is no code and the zoo has no such name.
        CodeError: The text describes an impossible code, or the argument is no text.

    Example:
        >>> str(resolve_code("mobilenetv2{24,40,64,96,120,240,4,3,2,3,6,2,3,6,6,3,6,6}"))
        'mobilenetv2_c24-40-64-96-120-240_l4-3-2-3-6-2_t3-6-6-3-6-6'
        >>> resolve_code("mobilenetv2_autobss") == resolve_code("mobilenetv2_autobss.in1k")
        True
    """
    if isinstance(name_or_code, Code):
        return name_or_code
    if not isinstance(name_or_code, str):
        raise CodeError(
            f"A network is named by a zoo name, a code's text or a bsszoo.Code; got "
            f"{formatted(name_or_code)} of type {type(name_or_code).__name__}."
        )
    if is_detector(name_or_code):
        raise no_classifier(repr(name_or_code))
    if _CODE_TEXT.search(name_or_code):
        return Code.parse(name_or_code)
    return find(name_or_code).code


def list_models(pattern: str | None = None, *, family: str | None = None, pretrained: bool | None = None) -> list[str]:
    """The names of the zoo's entries, in the order of the paper's tables.

    Args:
        pattern: Shell pattern on the name, for example ``"*autobss*"``; upper and lower case are the same.
        family: Only codes of this family.
        pretrained: True for entries with published weights, False for those without, None for both.

    Raises:
        UnknownNameError: The family does not exist.

    Example:
        >>> list_models("*autobss", family="resnet18")
        ['resnet18_autobss']
    """
    wanted = family_of(family).name if family is not None else None
    return [
        name
        for name, entry in entries().items()
        if (pattern is None or fnmatchcase(name, pattern.lower()))
        and (wanted is None or entry.code.family == wanted)
        and (pretrained is None or entry.published == pretrained)
    ]


# Detectors


#: The detectors of the paper's Table 5, and RetinaNet's code as it is printed there.
DETECTORS: Final = (
    "maskrcnn_resnet50",
    "maskrcnn_resnet50_autobss",
    "retinanet_resnet50",
    "retinanet_resnet50_autobss",
    "retinanet_resnet50_autobss_printed",
)
# The codes searched for each kind of detector, by the names of their backbones.
_SEARCHED: Final = {
    "resnet50_autobss": "resnet50_{}_autobss",
    "resnet50_autobss_printed": "resnet50_{}_autobss_printed",
}
#: The source of torchvision's COCO weights of the two ResNet-50 detectors, and their outputs, by the categories' ids.
TORCHVISION: Final = "torchvision"
TORCHVISION_CLASSES: Final = 91
_WIDTH: Final = re.compile(r"fpn(\d{1,6})_", re.IGNORECASE)


def find_detector(name: str) -> Detector | None:
    """The detector that a name means, None for a text that names none.

    ``maskrcnn_resnet50`` and ``retinanet_resnet50`` have the paper's caffe layout (stride on the first 1x1), and so
    have their ``_autobss`` codes, which were searched for each; ``retinanet_resnet50_autobss_printed`` has the code as
    printed. After the kind any other name of the zoo, or a code's text, is the backbone unchanged. Between them
    ``fpn64`` makes pyramid and heads 64 channels wide instead of 256: ``maskrcnn_fpn64_resnet18``.

    Raises:
        CodeError: The text after the kind is a broken code.
        UnknownNameError: It is no name of the zoo.
    """
    head, separator, rest = name.strip().partition("_")
    kind: Kind
    if head.lower() == "maskrcnn":
        kind = "maskrcnn"
    elif head.lower() == "retinanet":
        kind = "retinanet"
    else:
        return None
    if not separator or not rest:
        return None
    channels = CHANNELS
    if (width := _WIDTH.match(rest)) is not None:
        channels, rest = int(width.group(1)), rest[width.end() :]
    entry = entries().get(_SEARCHED.get(rest.lower(), "").format(kind))
    if entry is not None:
        return Detector(kind, entry.code, channels=channels)
    code = resolve_code(rest)
    if rest.lower() == "resnet50":
        code = replace(code, stride_in="1x1")
    return Detector(kind, replace(code, image_size=SIZE), channels=channels)
