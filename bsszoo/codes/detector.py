"""Detectors on block stacking style codes: Mask R-CNN and RetinaNet with a code as the backbone, and what they cost.

Section B.3.3 of the paper puts searched ResNet-50 codes under both. The layers beside the backbone are those of
torchvision's detectors, whose modules ``models.detector`` builds; their names are the module paths there. What is
counted follows the figures of the paper's Table 5, which come out only so (docs/findings.md): of Mask R-CNN the MACs of
backbone, pyramid and region proposals but the parameters of everything; of RetinaNet everything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from bsszoo.codes.code import Code, stages_of
from bsszoo.codes.cost import Cost, ImageSize, StageCost, checked_size, code_cost, stage_costs
from bsszoo.codes.families import family_of
from bsszoo.errors import CodeError, formatted

Kind = Literal["maskrcnn", "retinanet"]

#: Side of the square input at which the paper counts detectors [px].
SIZE: Final = 800
#: Classes as the paper counts: Mask R-CNN with a background, as COCO's category numbers go (91), RetinaNet COCO's 80.
CLASSES: Final[dict[Kind, int]] = {"maskrcnn": 91, "retinanet": 80}
#: Channels of the pyramid's features and of the heads, by default.
CHANNELS: Final = 256
#: Anchors at each position of a feature map: three shapes of one size, or of three sizes.
ANCHORS: Final[dict[Kind, int]] = {"maskrcnn": 3, "retinanet": 9}
#: Width of the box head's linear layers as a multiple of the pyramid's.
BOX_HEAD: Final = 4
_TITLES: Final[dict[Kind, str]] = {"maskrcnn": "Mask R-CNN", "retinanet": "RetinaNet"}


@dataclass(frozen=True, slots=True)
class Detector:
    """A detector: its kind, the code of its backbone, and the outputs of its classifiers.

    ``p6_from`` says what RetinaNet's coarser levels are made from: the backbone's last features (``c5``, as the paper
    counts and the RetinaNet paper describes) or the pyramid's (``p5``, as torchvision's published weights have it).
    ``channels`` is the width of the pyramid and of all heads: beside a small backbone they cost more than it does.
    """

    kind: Kind
    backbone: Code
    num_classes: int = 0
    p6_from: Literal["c5", "p5"] = "c5"
    channels: int = CHANNELS

    def __post_init__(self) -> None:
        if self.kind not in CLASSES:
            raise CodeError(f"A detector is maskrcnn or retinanet; got {formatted(self.kind)}.")
        family = family_of(self.backbone.family)
        if not family.has_pyramid:
            strides = ", ".join(map(str, dict.fromkeys(family.feature_strides)))
            raise CodeError(
                f"A {family.title} is no backbone of a detector: its features are at stride {strides} only, and a "
                "pyramid takes them at strides 4, 8, 16 and 32. Choose a network of another family."
            )
        if self.num_classes == 0:
            object.__setattr__(self, "num_classes", CLASSES[self.kind])
        if isinstance(self.num_classes, bool) or not isinstance(self.num_classes, int) or self.num_classes < 1:
            raise CodeError(f"num_classes is {formatted(self.num_classes)}; it takes an integer from 1.")
        if isinstance(self.channels, bool) or not isinstance(self.channels, int) or not 8 <= self.channels <= 1024:
            raise CodeError(
                f"A detector's pyramid is {formatted(self.channels)} channels wide; "
                "allowed is an integer from 8 to 1024."
            )
        if self.p6_from not in ("c5", "p5") or (self.p6_from == "p5" and self.kind == "maskrcnn"):
            raise CodeError(f"p6_from is {formatted(self.p6_from)}; it is c5 or p5, and RetinaNet's only.")

    def __str__(self) -> str:
        width = "" if self.channels == CHANNELS else f"fpn{self.channels}_"
        return f"{self.kind}_{width}{self.backbone}"

    @property
    def title(self) -> str:
        """Its kind and the backbone's family, for display."""
        return f"{_TITLES[self.kind]} on {family_of(self.backbone.family).title}"

    @property
    def levels(self) -> tuple[int, ...]:
        """Indices of the backbone's features (at strides 4, 8, 16, 32) that the pyramid takes."""
        return (0, 1, 2, 3) if self.kind == "maskrcnn" else (1, 2, 3)


@dataclass(frozen=True, slots=True)
class DetectorHead:
    """A detector without its backbone: what a search over backbones leaves unchanged. Fields as ``Detector``'s."""

    kind: Kind
    num_classes: int = 0
    p6_from: Literal["c5", "p5"] = "c5"
    channels: int = CHANNELS

    @classmethod
    def of(cls, detector: Detector) -> DetectorHead:
        """The head of a detector."""
        return cls(detector.kind, detector.num_classes, detector.p6_from, detector.channels)

    @property
    def title(self) -> str:
        """Its kind, for display."""
        return _TITLES[self.kind]

    def on(self, code: Code) -> Detector:
        """The detector with this head on a code."""
        return Detector(self.kind, code, self.num_classes, self.p6_from, self.channels)


@dataclass(frozen=True, slots=True)
class Convolution:
    """A convolution or linear layer beside the backbone: its module's path, widths, kernel, and where it runs.

    ``sides`` are the (height, width) of its outputs, one for each level of the pyramid that it is shared by; none where
    it runs on proposals, whose number depends on the image.
    """

    name: str
    in_width: int
    out_width: int
    kernel: int
    sides: tuple[tuple[int, int], ...]

    @property
    def cost(self) -> Cost:
        """Its MACs, parameters (it has biases) and outputs."""
        weights = self.in_width * self.out_width * self.kernel**2
        positions = sum(h * w for h, w in self.sides)
        return Cost(weights * positions, weights + self.out_width, self.out_width * positions)


def backbone_stages(code: Code, image_size: ImageSize | None = None) -> tuple[StageCost, ...]:
    """The stages of a code's features, without the layers behind them: classifier, last 1x1 of an MBConv net."""
    rows = zip(stage_costs(code, image_size, num_classes=0), stages_of(code), strict=False)
    return tuple(row for row, stage in rows if stage.first.in_features)


def backbone_cost(code: Code, image_size: ImageSize | None = None) -> Cost:
    """The cost of a code's features."""
    total = Cost(0, 0, 0)
    for row in backbone_stages(code, image_size):
        total = total + row.cost
    return total


def detector_layers(detector: Detector, image_size: ImageSize = SIZE) -> tuple[Convolution, ...]:
    """The layers beside the backbone, in the order of the forward.

    Raises:
        CodeError: An image size that no network can have.
    """
    widths, sides = _features(detector, checked_size(image_size))
    return tuple(_pyramid(detector, widths, sides))


def detector_cost(detector: Detector, image_size: ImageSize = SIZE) -> Cost:
    """What the paper counts of a detector: see the module's text; activations are those of the layers whose MACs count.

    Example:
        >>> code = Code.parse("resnet50_c256-512-1024-2048_l3-4-6-3_b64-128-256-512_px800_stride1x1")
        >>> detector_cost(Detector("maskrcnn", code)).macs
        117071049216
    """
    total = backbone_cost(detector.backbone, image_size)
    for layer in detector_layers(detector, image_size):
        total = total + layer.cost
    return total


def network_cost(code: Code, head: DetectorHead | None = None) -> Cost:
    """The cost of a code's network at the code's image size: of the classifier, or of the detector with this head."""
    return code_cost(code) if head is None else detector_cost(head.on(code), code.image_size)


@dataclass(frozen=True, slots=True)
class HeadCost:
    """The cost of a head on any code of a family: ``fixed``, and per channel of the stages whose features it takes.

    ``by_stage`` has (index of the searched stage, cost per channel). Every layer beside the backbone takes at most one
    feature, so the cost has no other terms.
    """

    fixed: Cost
    by_stage: tuple[tuple[int, Cost], ...]


def head_cost(head: DetectorHead, template: Code) -> HeadCost:
    """The cost of a head on the codes of a template's family, at the template's image size."""
    detector = head.on(template)
    _, sides = _features(detector, checked_size(template.image_size))
    stages = feature_stages(template.family)

    def at(widths: tuple[int, ...]) -> Cost:
        total = Cost(0, 0, 0)
        for layer in _pyramid(detector, widths, sides):
            total = total + layer.cost
        return total

    fixed = at((0,) * len(sides))
    by_stage, beside = [], fixed
    for level in detector.levels:
        one = at(tuple(int(i == level) for i in range(len(sides))))
        each = Cost(one.macs - fixed.macs, one.params - fixed.params, one.activations - fixed.activations)
        if stages[level] < 0:  # of the fixed stage 2, which all of these codes share
            wide = template.stage2_width
            beside = beside + Cost(wide * each.macs, wide * each.params, wide * each.activations)
        else:
            by_stage.append((stages[level], each))
    return HeadCost(beside, tuple(by_stage))


def feature_stages(family: str) -> tuple[int, ...]:
    """Indices of the searched stages whose outputs are the features at strides 4, 8, 16 and 32: the last at each.

    -1 for the stage in front of them.
    """
    data = family_of(family)
    stride = data.stem_stride
    last_stage = {stride: -1}
    for index, stage_stride in enumerate(data.strides):
        stride *= stage_stride
        last_stage[stride] = index
    return tuple(last_stage[s] for s in (4, 8, 16, 32))


def _features(detector: Detector, size: tuple[int, int]) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
    """Widths and sizes of the backbone's features at strides 4, 8, 16 and 32 [px]: the last stage at each."""
    by_stride: dict[int, tuple[int, tuple[int, int]]] = {}
    for row in backbone_stages(detector.backbone, size):
        if row.number == 1:
            continue
        stride = round(size[0] / row.size[0])
        by_stride[stride] = row.width, row.size
    features = [by_stride[stride] for stride in sorted(by_stride) if stride >= 4][:4]
    return tuple(w for w, _ in features), tuple(s for _, s in features)


def _pyramid(detector: Detector, widths: Sequence[int], sides: Sequence[tuple[int, int]]) -> Iterator[Convolution]:
    kind, classes, wide = detector.kind, detector.num_classes, detector.channels
    fully = BOX_HEAD * wide
    used = [(widths[i], sides[i]) for i in detector.levels]
    for i, (width, side) in enumerate(used):
        yield Convolution(f"backbone.fpn.inner_blocks.{i}.0", width, wide, 1, (side,))
        yield Convolution(f"backbone.fpn.layer_blocks.{i}.0", wide, wide, 3, (side,))
    levels = [side for _, side in used]
    half = _half(levels[-1])
    if kind == "maskrcnn":
        # The last level pooled once more; proposals are made on it, nothing else is.
        shared = (*levels, half)
        yield Convolution("rpn.head.conv.0.0", wide, wide, 3, shared)
        yield Convolution("rpn.head.cls_logits", wide, ANCHORS[kind], 1, shared)
        yield Convolution("rpn.head.bbox_pred", wide, 4 * ANCHORS[kind], 1, shared)
        yield Convolution("roi_heads.box_head.fc6", wide * 49, fully, 1, ())
        yield Convolution("roi_heads.box_head.fc7", fully, fully, 1, ())
        yield Convolution("roi_heads.box_predictor.cls_score", fully, classes, 1, ())
        yield Convolution("roi_heads.box_predictor.bbox_pred", fully, 4 * classes, 1, ())
        for i in range(4):
            yield Convolution(f"roi_heads.mask_head.{i}.0", wide, wide, 3, ())
        yield Convolution("roi_heads.mask_predictor.conv5_mask", wide, wide, 2, ())
        yield Convolution("roi_heads.mask_predictor.mask_fcn_logits", wide, classes, 1, ())
        return
    source = widths[detector.levels[-1]] if detector.p6_from == "c5" else wide
    yield Convolution("backbone.fpn.extra_blocks.p6", source, wide, 3, (half,))
    yield Convolution("backbone.fpn.extra_blocks.p7", wide, wide, 3, (_half(half),))
    shared = (*levels, half, _half(half))
    for head, outputs, last in (
        ("classification_head", ANCHORS[kind] * classes, "cls_logits"),
        ("regression_head", ANCHORS[kind] * 4, "bbox_reg"),
    ):
        for i in range(4):
            yield Convolution(f"head.{head}.conv.{i}.0", wide, wide, 3, shared)
        yield Convolution(f"head.{head}.{last}", wide, outputs, 3, shared)


def _half(side: tuple[int, int]) -> tuple[int, int]:
    return -(-side[0] // 2), -(-side[1] // 2)
