"""``Family``: the interface of a family and the data that its codes share. Each family is one file beside this one."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from types import MappingProxyType
from typing import Any, Final, Literal, Protocol

from bsszoo.codes.layers import Block, Classifier, N, Stage
from bsszoo.errors import CodeError

#: The field of a ``Code`` that holds the entries of each letter.
FIELDS: Final = {
    "C": "widths",
    "L": "depths",
    "B": "bottlenecks",
    "E": "first_bottlenecks",
    "T": "expansions",
    "G": "group_widths",
}
#: What the entries of each letter are, in words: of one stage, and of several.
TITLES: Final = {
    "C": ("width", "widths"),
    "L": ("depth", "depths"),
    "B": ("bottleneck width", "bottleneck widths"),
    "E": ("bottleneck width of the first block", "bottleneck widths of the first blocks"),
    "T": ("expansion", "expansions"),
    "G": ("group width", "group widths"),
}

Shapes = Mapping[str, Sequence[int]]


class CodeFields(Protocol):
    """What a family reads of a code."""

    @property
    def widths(self) -> tuple[int, ...]:
        """Output channels of each stage."""

    @property
    def depths(self) -> tuple[int, ...]:
        """Blocks of each stage."""

    @property
    def thirds(self) -> tuple[int, ...]:
        """The third entries of each stage."""

    @property
    def stem_width(self) -> int:
        """Width of the first convolution."""

    @property
    def image_size(self) -> int:
        """Side of the input [px]."""

    @property
    def stage2_width(self) -> int:
        """Width of the fixed second stage."""

    @property
    def form(self) -> str:
        """The letters of its third entries."""

    @property
    def head_width(self) -> int:
        """Width of the last 1x1 convolution."""

    @property
    def stride_in(self) -> str:
        """Which convolution of a bottleneck takes the stride."""


@dataclass(frozen=True, slots=True)
class WidthRange:
    """The widths one stage may have: ``low``, then on by ``step`` (or by doubling), up to ``high`` [channels]."""

    step: int
    low: int
    high: int
    doubling: bool = False

    def values(self, step: int) -> tuple[int, ...]:
        """The widths with another step, each the same multiple of it."""
        if self.doubling:
            low = step * (self.low // self.step)
            return tuple(low * 2**k for k in range((self.high // self.low).bit_length()))
        return tuple(step * k for k in range(self.low // self.step, self.high // self.step + 1))


#: Where the paper has its families' trainings on ImageNet.
TABLE_1: Final = "the AutoBSS paper's Table 1"
#: The peak rate of SGD in trainings on few images, in batches of 64.
SHORT_LR: Final = 0.05


@dataclass(frozen=True, slots=True)
class Training:
    """How a family is trained on ImageNet, with a cosine schedule: by default SGD and batches of 1024.

    Of the paper's families a row of its Table 1. The fields from ``optimiser`` to ``ema`` are those of a recipe;
    ``policy`` is timm's of random augmentation in place of the fixed ``autoaugment``. ``short_lr`` is our peak rate of
    trainings on few images, in batches of 64, by ``short_optimiser`` or else ``optimiser``. ``head_scaled`` says that a
    classifier of fewer classes begins with weights as large as with ImageNet's 1000, where timm would begin with larger
    ones.
    """

    weight_decay: float
    lr: float
    epochs: int
    autoaugment: bool = False
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    head_scaled: bool = True
    crop_pct: float = 0.875
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    label_smoothing: float = 0.1
    source: str = TABLE_1
    optimiser: str = "sgd"
    batch_size: int = 1024
    warmup_epochs: float = 5.0
    warmup_from: float = 0.25
    min_lr: float = 0.0
    policy: str | None = None
    mixup: float = 0.0
    cutmix: float = 0.0
    erase: float = 0.0
    ema: float | None = None
    short_lr: float = SHORT_LR
    short_optimiser: str = ""

    @property
    def short(self) -> str:
        """The optimiser of trainings on few images."""
        return self.short_optimiser or self.optimiser

    @property
    def decay(self) -> float:
        """Weight decay of fine-tunings and of trainings on very few images: SGD's is coupled to its rate."""
        return 5e-4 if self.short == "sgd" else self.weight_decay


@dataclass(frozen=True, slots=True)
class Published:
    """A network that others have published: its entries, and timm's tags of weights for it.

    ``timm`` says that timm has it, under the name by which it is listed here, which must be so where there are tags.
    ``form`` are the letters of its third entries, where they are not the family's; ``fixed`` its fixed parts and
    ``training`` how it is trained on ImageNet, where they differ from the family's. ``alias`` is a short name that
    means it too.
    """

    entries: tuple[int, ...]
    title: str
    tags: tuple[str, ...] = ()
    form: str | None = None
    fixed: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    training: Training | None = None
    timm: bool = True
    alias: str = ""


@dataclass(frozen=True, slots=True)
class Fixed:
    """The parts of a network that its code does not search; of many codes as columns [n].

    ``form`` are the letters of the codes' third entries; ``image_size`` is the same for all [px].
    """

    stem_width: Any
    stage2_width: Any
    stage2_depth: Any
    stride_in: Literal["3x3", "1x1"] = "3x3"
    form: str = ""
    head_width: Any = 0
    image_size: int = 0


@dataclass(frozen=True)
class Family(ABC):
    """A family: its data, and how its codes become stages, networks and spaces.

    Args:
        name, title: As in a code's text, and for display.
        letter: Of the published networks' third entries: ``B`` (bottleneck width), ``T`` (expansion), ``G`` (group
            width), ``BG`` (both, of which spaces search the first) or none.
        first_stage: The paper's number of the first searched stage; those before it are fixed, the stem among them.
        strides, kernels: Of the first block of each searched stage.
        stem_width: None where the stem follows the first width of the code (ConvNeXts; ResNet-18, see docs/findings).
        stage2: (width, depth) of the fixed second stage of families of inverted residual blocks, None elsewhere.
        head_width: Width of the last 1x1 convolution, in front of the classifier; 0 where there is none.
        activation: timm's name of it.
        image_size: Side of the input at which costs are counted by default [px].
        original: The entries of the published network.
        original_stage2_depth: Differs from the searched codes' in EfficientNet-B1 only.
        width_ranges, max_depths: Of the search space at scale 1: section B.2.2 of the paper, or ours.
        third_values: The third entries that each stage of the space may have; of ``B`` as shares of the width.
        grid_divisor: What the steps of a scaled space are multiples of.
        uniform_divisor: What the widths of a uniformly rescaled network are multiples of.
        interpolation: How timm's configurations of it resize images.
        first_conv, classifier: Module paths of the first and the last layer.
        training: How it is trained on ImageNet.
        published: Further published networks by their names, which are timm's where it has them.
    """

    name: str
    title: str
    letter: str
    first_stage: int
    strides: tuple[int, ...]
    kernels: tuple[int, ...]
    stem_kernel: int
    stem_width: int | None
    stage2: tuple[int, int] | None
    activation: Literal["relu", "relu6", "silu", "hard_swish", "gelu"]
    image_size: int
    original: tuple[int, ...]
    original_stage2_depth: int
    width_ranges: tuple[WidthRange, ...]
    max_depths: tuple[int, ...]
    third_values: tuple[Fraction, ...]
    grid_divisor: int
    uniform_divisor: int
    interpolation: Literal["bilinear", "bicubic"]
    first_conv: str
    classifier: str
    training: Training
    published: Mapping[str, Published] = field(default_factory=lambda: MappingProxyType({}))
    head_width: int = 0

    # -- entries ---------------------------------------------------------------------------------------------

    @property
    def stages(self) -> int:
        """Number of stages whose stacking the code chooses."""
        return len(self.strides)

    @property
    def entry_names(self) -> tuple[str, ...]:
        """The paper's names of the entries in order, e.g. ``C3 .. C8, L3 .. L8, T3 .. T8``."""
        return self.names_of(self.letter)

    def names_of(self, form: str) -> tuple[str, ...]:
        """The names of the entries of codes whose third entries have these letters."""
        return tuple(f"{letter}{i}" for letter in "CL" + form for i in self.numbers)

    @property
    def forms(self) -> tuple[str, ...]:
        """The letters of the third entries that codes may have: the published networks', then the subnetworks'.

        A subnetwork has inner widths of its own: ``B``, and ``E`` where the first block of a stage has another one.
        """
        return (self.letter,)

    @property
    def original_name(self) -> str:
        """The zoo's name of the published network that ``original`` is."""
        return next((name for name, network in self.published.items() if network.entries == self.original), self.name)

    def training_of(self, code: CodeFields) -> Training:
        """How a code's network is trained on ImageNet: as the published network with its fixed parts, if any."""
        for network in self.published.values():
            if network.training is not None and all(getattr(code, f) == value for f, value in network.fixed.items()):
                return network.training
        return self.training

    @property
    def numbers(self) -> range:
        """The paper's numbers of the searched stages."""
        return range(self.first_stage, self.first_stage + self.stages)

    @property
    def titles(self) -> dict[str, tuple[str, str]]:
        """``TITLES`` in this family's words."""
        return dict(TITLES)

    @property
    def form(self) -> str:
        """The entries in words, for messages: ``6 widths, 6 depths, 6 expansions``."""
        return self.words_of(self.letter)

    def words_of(self, form: str) -> str:
        """The entries of codes whose third entries have these letters, in words."""
        return ", ".join(f"{self.stages} {self.titles[letter][1]}" for letter in "CL" + form)

    def published_thirds(self, code: CodeFields) -> tuple[int, ...] | None:
        """The third entries that describe a subnetwork's code in the published networks' form; None where none do."""
        return None

    @property
    def shares_width(self) -> bool:
        """Whether a space holds the third entries as shares of their stage's width."""
        return False

    @property
    def whole_groups(self) -> bool:
        """Whether a third entry has to divide its stage's width."""
        return False

    @property
    def always_expands(self) -> bool:
        """Whether blocks of expansion 1 have an inner width as well, which subnetworks choose."""
        return False

    @property
    def fixed_groups(self) -> tuple[int, ...]:
        """The group widths that all codes of its spaces have; empty where there are none or they are searched."""
        at = (2 + self.letter.find("G")) * self.stages
        return self.original[at : at + self.stages] if self.letter.find("G") > 0 else ()

    @property
    def chooses_stride(self) -> bool:
        """Whether a code says which convolution of a block takes the stride."""
        return "B" in self.letter

    @property
    def grid_divisors(self) -> tuple[int, ...]:
        """What the steps of each stage's widths in a scaled space are multiples of."""
        return (self.grid_divisor,) * self.stages

    # -- the layer list --------------------------------------------------------------------------------------

    @abstractmethod
    def block(self, name: str, width_in: N, width: N, third: N, kernel: int, stride: int, fixed: Fixed) -> Block[N]:
        """A block of a searched stage, ``third`` its third entry, of the form ``fixed.form``; 0 without."""

    def block_of(self, stage: int, name: str, width_in: N, width: N, third: N, stride: int, fixed: Fixed) -> Block[N]:
        """A block of the searched stage with this index; the same kind of block in each, unless a family says else."""
        return self.block(name, width_in, width, third, self.kernels[stage], stride, fixed)

    def blocks(
        self, index: int, width_in: N, width: N, thirds: Mapping[str, N], fixed: Fixed
    ) -> tuple[Block[N], Block[N]]:
        """The first and the further blocks of a searched stage, whose third entries are given by their letters."""
        name = self.stage_name(index)
        third = thirds[fixed.form[0]] if fixed.form else 0 * width
        first = self.block_of(index, name, width_in, width, thirds.get("E", third), self.strides[index], fixed)
        return first, self.block_of(index, name, width, width, third, 1, fixed)

    def further(self, index: int, width: N, thirds: Mapping[str, N], fixed: Fixed) -> tuple[Block[N], ...]:
        """The blocks of a searched stage behind its second, where they differ from it: ``Stage.further``."""
        return ()

    def repeats(self, index: int) -> int:
        """How many of the last blocks of a searched stage a deeper one goes on with, in turn: ``Stage.repeats``."""
        return 1

    @abstractmethod
    def stem(self, in_chans: N, width: N) -> Stage[N]:
        """The first stage."""

    @abstractmethod
    def stage_name(self, index: int) -> str:
        """The module path of a searched stage."""

    def before(self, width: N, fixed: Fixed) -> list[Stage[N]]:
        """The fixed stages between the stem of some width and the searched ones."""
        return []

    def behind(self, width: N, fixed: Fixed) -> list[Stage[N]]:
        """The fixed stages between the searched ones, the last of some width, and the classifier."""
        return []

    def head(self, width: N, classes: N) -> Block[N]:
        """The classifier, on pooled features of some width."""
        return Classifier(self.classifier, width, classes, classes, 1, 1)

    def layout(
        self,
        widths: Sequence[N],
        depths: Sequence[N],
        thirds: Sequence[N],
        fixed: Fixed,
        num_classes: int,
        in_chans: int,
    ) -> tuple[Stage[N], ...]:
        """The stages in the order of the forward, of one code or of n codes whose entries are columns [n].

        ``thirds`` has as many values as stages for each letter of ``fixed.form``, one letter after the other.
        """
        zero = 0 * fixed.stem_width
        n = self.stages
        out = [self.stem(zero + in_chans, fixed.stem_width)]
        out += self.before(fixed.stem_width, fixed)
        width = out[-1].first.out_width
        for i, (c, depth) in enumerate(zip(widths, depths, strict=True)):
            own = {letter: thirds[k * n + i] for k, letter in enumerate(fixed.form)}
            first, rest = self.blocks(i, width, c, own, fixed)
            # A stage of the code may go on in the module of the one before.
            name, before = self.stage_name(i), out[-1]
            offset = before.offset + before.depth if before.name == name else 0
            further, repeats = self.further(i, c, own, fixed), self.repeats(i)
            number = self.first_stage + i
            out.append(Stage(number, name, first, rest, depth, offset=offset, further=further, repeats=repeats))
            width = c
        out += self.behind(width, fixed)
        width, last = out[-1].first.out_width, self.first_stage + self.stages
        classes = zero + num_classes
        head = self.head(width, classes)
        out.append(Stage(last, self.classifier, head, head, zero + 1))
        return tuple(out)

    def single(self, block: Block[N], number: int, name: str, pool: int = 1) -> Stage[N]:
        """A stage of one block."""
        return Stage(number, name, block, block, 0 * block.out_width + 1, pool)

    @property
    def stem_stride(self) -> int:
        """The stride of the first searched stage's input."""
        stages = (self.stem(3, 8), *self.before(8, Fixed(8, 8, 1)))
        return math.prod(stage.first.stride * stage.pool for stage in stages)

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """The strides of the features that the family's features-only networks give [px of input per px]."""
        return (2, 4, 8, 16, 32)

    def last_side(self, side: int) -> int:
        """The side of the last features of an image with some side [px]."""
        return -(-side // 32)

    def block_of_kind(self, kind: str, *parts: Any) -> Block[int]:
        """The block of a kind that the family's networks have; ``parts`` are the fields of ``Block``.

        Raises:
            CodeError: They have none of this kind.
        """
        kinds: dict[str, Block[int]] = {}
        for form in self.forms:
            ones = (1,) * self.stages
            fixed = Fixed(8, 8, 1, form=form, head_width=8)
            for stage in self.layout((8,) * self.stages, ones, ones * len(form), fixed, 1, 3):
                for block in (stage.first, stage.rest, *stage.further):
                    kinds.setdefault(block.kind, block)
        if kind not in kinds:
            raise CodeError(f"A {self.title} has no block of kind {kind!r}; it has {', '.join(kinds)}.")
        names = (part.name for part in fields(Block))
        return replace(kinds[kind], **dict(zip(names, parts, strict=False)))

    # -- spaces ----------------------------------------------------------------------------------------------

    def thirds_at(self, steps: Sequence[int]) -> tuple[tuple[Fraction, ...], ...]:
        """The third entries of each stage of a space whose widths have these steps."""
        return (self.third_values,) * self.stages if self.third_values else ()

    def rescaled(self, width: int, third: int, scale: float) -> tuple[int, int]:
        """A stage's width and third entry in a network uniformly ``scale`` times as wide."""
        return scaled(scale * width, self.uniform_divisor), third

    def rescaled_entries(self, code: CodeFields, scale: float) -> dict[str, tuple[int, ...]]:
        """The widths and third entries, by field, of a published code in a network ``scale`` times as wide."""
        thirds = code.thirds or (0,) * self.stages
        pairs = [self.rescaled(c, t, scale) for c, t in zip(code.widths, thirds, strict=True)]
        entries = {"widths": tuple(c for c, _ in pairs)}
        return entries | ({FIELDS[self.letter]: tuple(t for _, t in pairs)} if self.letter else {})

    def rescaled_stem(self, width: int, scale: float) -> int:
        """A stem of some width in a network ``scale`` times as wide: the nearest multiple of 8."""
        return scaled(scale * width, 8)

    @property
    def grows_with_scale(self) -> bool:
        """Whether a uniformly rescaled network never costs less at a larger scale."""
        return True

    @property
    def loses_projection(self) -> bool:
        """Whether a first stage just as wide as a stem of fixed width needs no projection, and costs less for it."""
        return False

    # -- networks --------------------------------------------------------------------------------------------

    @abstractmethod
    def network(self) -> Any:
        """What makes a timm model of ``stages`` and of the arguments of ``models.build``."""

    def features(self) -> Any:
        """What makes its features-only model; None where timm wraps the whole network."""
        return None

    @property
    def global_pool(self) -> str:
        """timm's name of what its networks' classifiers read."""
        return "avg"

    @property
    def has_pyramid(self) -> bool:
        """Whether its networks give features at strides 4, 8, 16 and 32, as detectors take them."""
        return set(self.feature_strides) >= {4, 8, 16, 32}

    @property
    def sized(self) -> bool:
        """Whether its networks are of one image size, which their tensors show."""
        return False

    @property
    def torchvision_body(self) -> bool:
        """Whether a detector's backbone has torchvision's names, and the whole network's modules."""
        return False

    def timm_arguments(self, code: CodeFields) -> tuple[str, dict[str, Any]] | None:
        """A name of timm's and arguments that may build a code's network; None where no arguments do."""
        return None

    # -- weights ---------------------------------------------------------------------------------------------

    @abstractmethod
    def code_of(self, shapes: Shapes) -> dict[str, Any] | None:
        """The fields of the code of a trained network, from the shapes of its tensors under timm's keys; else None.

        The image size and where a stride is are not in them and take the family's defaults.
        """

    def code_of_module(self, shapes: Shapes, module: Any) -> dict[str, Any] | None:
        """As ``code_of``, of a built module with these tensors, which may tell what no tensor shows."""
        return self.code_of(shapes)

    def assumed(self, code: CodeFields) -> str:
        """What ``code_of`` assumes of a code's network, which no tensor shows, in words; empty where it is nothing."""
        return ""

    @property
    def beside_tensors(self) -> str:
        """What of its networks no tensor shows, in words; empty for what is usual."""
        return ""

    def runs_as(self, module: Any) -> bool:
        """Whether a built module computes as the family's networks do, where its tensors are those of one of them."""
        return True

    def from_torchvision(self, shapes: Shapes) -> Mapping[str, str] | None:
        """timm's names of modules or single tensors by torchvision's; None where the tensors have no such names.

        Raises:
            WeightsError: They have names of a network that computes something else than the family's.
        """
        return None


def scaled(value: float, divisor: int) -> int:
    """The multiple of ``divisor`` nearest to ``value`` (ties go up), at least ``divisor``."""
    return max(1, math.floor(value / divisor + 0.5)) * divisor


def widths_in(shapes: Shapes, name: str) -> int:
    """The output channels of a convolution by its module path; 0 where there is none."""
    shape = shapes.get(f"{name}.weight", ())
    return int(shape[0]) if shape else 0


def counted(shapes: Shapes, path: Any) -> int:
    """How many of ``path(0)``, ``path(1)``, .. name a convolution in ``shapes``."""
    index = 0
    while f"{path(index)}.weight" in shapes:
        index += 1
    return index


def multiples(steps: tuple[int, ...], low: tuple[int, ...], high: tuple[int, ...]) -> tuple[WidthRange, ...]:
    """The ranges of several stages."""
    return tuple(WidthRange(s, a, b) for s, a, b in zip(steps, low, high, strict=True))
