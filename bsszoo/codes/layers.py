"""The one description of a network: stages of blocks, blocks of layers, in the order of the forward.

Networks are built from the ``Block`` values of this file and costs sum their layers, so that a cost cannot drift from
its network. The numbers of a block are integers for one code or integer columns [n] for n codes at once: the same lines
serve both (``N``). Layer names are the module paths of the built timm model. Each family defines its residual blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

from bsszoo.errors import CodeError

if TYPE_CHECKING:
    from torch import nn

# int for one code; a numpy array of shape [n] for n codes. Any keeps this module free of numpy.
N = TypeVar("N", int, Any)

Role = Literal["main", "shortcut", "gate", "classifier", "norm"]


@dataclass(frozen=True, slots=True)
class Vector(Generic[N]):
    """A learned vector beside a layer's weights: of a layer normalisation, a layer scale, a response normalisation.

    ``name`` is its tensor's. It has an element for each channel that the layer reads (``axis`` is ``in``) or writes;
    of ``tokens``, where there are any, its shape is [1, tokens, channels].
    """

    name: str
    width: N
    axis: Literal["in", "out"] = "out"
    tokens: int = 0

    @property
    def shape(self: Vector[int]) -> tuple[int, ...]:
        """The shape of its tensor."""
        return (1, self.tokens, self.width) if self.tokens else (self.width,)


@dataclass(frozen=True, slots=True)
class Layer(Generic[N]):
    """One convolution or linear layer with what normalises it: the batch normalisation that follows it, or vectors.

    ``group_width`` is how many input channels each output reads: ``in_width`` of a dense layer, 1 of a depthwise one.
    ``norm`` is the module path of its batch normalisation, empty without. ``present`` is 1 or 0 (a column of both for
    many codes): a projection shortcut exists only where shapes differ, an expansion only where T > 1. ``role`` is
    ``main`` for the path whose length is the depth of the network, ``shortcut`` for a projection, ``gate`` for
    squeeze-and-excitation at 1x1, ``classifier`` for the last layer, ``norm`` for a normalisation that stands alone and
    has ``vectors`` only.

    ``vectors`` are all further parameters; ``scale`` names the one among them that multiplies the layer's output. A
    layer that is not ``padded`` reads its kernel's size and no pixel beyond the image's edge. The weights of a
    ``flat`` one are [out, in]: a linear layer on each pixel, and on ``tokens`` further ones, which belong to none.

    A layer that ``attends`` reads weighted sums of all positions: attention multiplies each query with all keys, and
    the weights with all values. The layer before it is ``fused``: it writes so many values (query, key and value) for
    each channel that this one reads. ``head_width`` of both is the number of channels that make one head.

    What an ``appended`` one writes follows its input: the layers behind it read both, less the last channel where they
    read an odd number.
    """

    name: str
    in_width: N
    out_width: N
    kernel: int
    stride: int
    group_width: N | int
    bias: bool
    norm: str
    role: Role = "main"
    present: N | int = 1
    vectors: tuple[Vector[N], ...] = ()
    scale: str = ""
    padded: bool = True
    flat: bool = False
    tokens: int = 0
    attends: bool = False
    fused: int = 1
    head_width: N | int = 1
    appended: bool = False

    def output_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of its output for an input of some size [px].

        Raises:
            CodeError: The input is smaller than its kernel.
        """
        if self.padded:
            return -(-size[0] // self.stride), -(-size[1] // self.stride)
        if min(size) < self.kernel:
            raise CodeError(
                f"{self.name} reads {self.kernel}x{self.kernel} px, and its input would be {size[0]}x{size[1]}: the "
                "image is too small for this network."
            )
        return (size[0] - self.kernel) // self.stride + 1, (size[1] - self.kernel) // self.stride + 1

    @property
    def groups(self) -> N:
        """The number of groups of its channels."""
        return self.in_width // self.group_width


@dataclass(frozen=True, slots=True)
class Placement:
    """How one block sits in the built network, where that differs from the code.

    ``stride`` is 1 where the output stride turned the code's stride into dilation; ``first_dilation`` is the dilation
    up to the convolution that has the stride, ``dilation`` that of all after it. ``drop_path`` is a probability.
    """

    stride: int
    dilation: int = 1
    first_dilation: int = 1
    drop_path: float = 0.0


@dataclass(frozen=True, slots=True)
class Part(Generic[N]):
    """What follows another in a block: the path of its module, its layers, and whether a skip adds its input.

    ``norm`` is the path of the normalisation in front of its module, where the skip is around both and in neither.
    """

    path: str
    layers: list[Layer[N]]
    joined: bool
    norm: str = ""


@dataclass(frozen=True, slots=True)
class Block(Generic[N]):
    """One block; a subclass says which layers it has and builds its module, and needs no decorator without new fields.

    ``mid_width`` is the inner width: of a bottleneck B, of an inverted residual the input x T, else the output width.
    ``squeeze_width`` is the hidden width of squeeze-and-excitation, None without; ``group_width`` that of the groups of
    its 3x3 convolution, or of attention's heads, None where it has none. ``mlp_width`` is the inner width of an MLP
    beside the inner width; None without.
    """

    name: str
    in_width: N
    out_width: N
    mid_width: N
    kernel: int
    stride: int
    squeeze_width: N | None = None
    stride_in: Literal["3x3", "1x1"] = "3x3"
    group_width: N | None = None
    mlp_width: N | None = None

    #: Its kind in the text of a latency table's block, and the letter of the code's third entry that shapes its inside.
    kind: ClassVar[str] = ""
    letter: ClassVar[str] = ""
    #: timm's name of its activation, where it is not the network's.
    activation: ClassVar[str] = ""
    #: Whether its inner and its output channels are pairs: of one half, and of what an appended layer makes of them.
    paired: ClassVar[bool] = False
    #: Whether an activation follows its last convolution, before its input is added.
    activated: ClassVar[bool] = False
    #: Whether its squeeze-and-excitation has a hard sigmoid, and always ReLU, as MobileNetV3's.
    hard_gate: ClassVar[bool] = False
    #: Whether its inner width is independent of its output width.
    waisted: ClassVar[bool] = False
    #: Whether its output is a sum with a shortcut: its input, or a projection of it.
    residual: ClassVar[bool] = True
    #: Whether a stage stacks it, whether a detector takes features before it, whether it reads pooled features, and
    #: whether a network without classes lacks it.
    stacked: ClassVar[bool] = True
    in_features: ClassVar[bool] = True
    pooled: ClassVar[bool] = False
    classifies: ClassVar[bool] = False

    def output_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of its output for an input of some size [px]."""
        return -(-size[0] // self.stride), -(-size[1] // self.stride)

    def layers(self) -> list[Layer[N]]:
        """Its layers in the order of its modules; absent ones have ``present`` 0."""
        raise NotImplementedError

    def parts(self) -> list[Part[N]]:
        """What follows one another in it."""
        layers = [layer for layer in self.layers() if layer.present]
        return [Part(self.name, layers, self.residual and self.stride == 1 and bool(self.in_width == self.out_width))]

    def build(self: Block[int], placement: Placement, activation: str, dd: dict[str, Any]) -> nn.Module:
        """Its module, freshly initialised; ``dd`` holds the device and the dtype of its parameters."""
        raise NotImplementedError

    def title(self: Block[int]) -> str:
        """What it is, for a table: ``Bottleneck 3x3``."""
        raise NotImplementedError

    def third(self: Block[int]) -> int:
        """The code's third entry that made it; 0 without."""
        return 0

    @staticmethod
    def numbered(stage: str, index: int) -> str:
        """The module path of a stage's block."""
        return f"{stage}.{index}"

    def _conv(
        self,
        name: str,
        width_in: N,
        width_out: N,
        norm: str,
        kernel: int = 1,
        stride: int = 1,
        *,
        group_width: N | int | None = None,
        role: Role = "main",
        present: N | int = 1,
    ) -> Layer[N]:
        path = f"{self.name}." if self.name else ""
        return Layer(
            f"{path}{name}",
            width_in,
            width_out,
            kernel,
            stride,
            width_in if group_width is None else group_width,
            not norm,
            f"{path}{norm}" if norm else "",
            role,
            present,
        )


@dataclass(frozen=True, slots=True)
class Stem(Block[N]):
    """The first convolution. ``layer`` and ``norm_layer`` are the module paths of it and of its normalisation."""

    layer: str = ""
    norm_layer: str = ""

    kind: ClassVar[str] = "stem"
    stacked: ClassVar[bool] = False

    def layers(self) -> list[Layer[N]]:
        """The convolution."""
        return [
            Layer(
                self.layer,
                self.in_width,
                self.out_width,
                self.kernel,
                self.stride,
                self.in_width,
                False,
                self.norm_layer,
            )
        ]

    def build(self: Block[int], placement: Placement, activation: str, dd: dict[str, Any]) -> nn.Module:
        """The convolution, its normalisation and its activation."""
        from timm.layers.create_act import get_act_layer
        from torch import nn

        act: Any = get_act_layer(activation)
        return nn.Sequential(
            nn.Conv2d(self.in_width, self.out_width, self.kernel, self.stride, self.kernel // 2, bias=False, **dd),
            nn.BatchNorm2d(self.out_width, **dd),
            act(inplace=True),
        )

    def title(self: Block[int]) -> str:
        """``Conv 7x7``."""
        return f"Conv {self.kernel}x{self.kernel}"


class HeadConv(Stem[N]):
    """The last 1x1 convolution of an MBConv network, behind the features."""

    __slots__ = ()

    kind: ClassVar[str] = "head_conv"
    in_features: ClassVar[bool] = False


class PooledConv(Stem[N]):
    """A 1x1 convolution with a bias on the pooled features, and an activation, in front of the classifier."""

    __slots__ = ()

    kind: ClassVar[str] = "pooled_conv"
    in_features: ClassVar[bool] = False
    pooled: ClassVar[bool] = True

    def layers(self) -> list[Layer[N]]:
        """The convolution."""
        return [Layer(self.layer, self.in_width, self.out_width, 1, 1, self.in_width, True, "")]

    def build(self: Block[int], placement: Placement, activation: str, dd: dict[str, Any]) -> nn.Module:
        """The convolution and its activation, on pooled features [n, c, 1, 1]."""
        from timm.layers.create_act import get_act_layer
        from torch import nn

        act: Any = get_act_layer(activation)
        return nn.Sequential(nn.Conv2d(self.in_width, self.out_width, 1, **dd), act(inplace=True))


class NormedPooledConv(PooledConv[N]):
    """The same without a bias, normalised before the activation."""

    __slots__ = ()

    kind: ClassVar[str] = "pooled_norm_conv"

    def layers(self) -> list[Layer[N]]:
        """The convolution."""
        return [Layer(self.layer, self.in_width, self.out_width, 1, 1, self.in_width, False, self.norm_layer)]

    def build(self: Block[int], placement: Placement, activation: str, dd: dict[str, Any]) -> nn.Module:
        """The convolution, its normalisation and its activation, on pooled features [n, c, 1, 1]."""
        from timm.layers.create_act import get_act_layer
        from torch import nn

        act: Any = get_act_layer(activation)
        return nn.Sequential(
            nn.Conv2d(self.in_width, self.out_width, 1, bias=False, **dd),
            nn.BatchNorm2d(self.out_width, **dd),
            act(inplace=True),
        )


class Classifier(Block[N]):
    """The linear layer on the pooled features; ``name`` is its module path."""

    __slots__ = ()

    kind: ClassVar[str] = "classifier"
    stacked: ClassVar[bool] = False
    in_features: ClassVar[bool] = False
    pooled: ClassVar[bool] = True
    classifies: ClassVar[bool] = True

    def layers(self) -> list[Layer[N]]:
        """The linear layer."""
        return [Layer(self.name, self.in_width, self.out_width, 1, 1, self.in_width, True, "", "classifier")]

    def build(self: Block[int], placement: Placement, activation: str, dd: dict[str, Any]) -> nn.Module:
        """The layer, on flattened features."""
        from torch import nn

        return nn.Sequential(nn.Flatten(), nn.Linear(self.in_width, self.out_width, **dd))

    def title(self: Block[int]) -> str:
        """``Linear``."""
        return "Linear"


@dataclass(frozen=True, slots=True)
class Stage(Generic[N]):
    """One stage: ``depth`` blocks, the first of which takes the stride and the change of width.

    ``number`` is the paper's stage number (1 is the stem). ``pool`` is the stride of a max pooling after it. ``offset``
    counts the blocks of the stages before it that are in the same module. All blocks behind the first are ``rest``;
    where they differ, ``rest`` is the second block, and ``further`` are those behind it. A stage of more blocks goes on
    with the last ``repeats`` of these, in turn.
    """

    number: int
    name: str
    first: Block[N]
    rest: Block[N]
    depth: N
    pool: int = 1
    offset: N | int = 0
    further: tuple[Block[N], ...] = ()
    repeats: int = 1

    def counted(self) -> list[tuple[Block[N], N]]:
        """Its different blocks and how often it has each, of many codes columns [n]."""
        once = 0 * self.depth + 1
        if self.first is self.rest:
            return [(self.first, once)]
        if not self.further:
            return [(self.first, once), (self.rest, self.depth - 1)]
        out: list[tuple[Block[N], N]] = [(self.first, once)]
        behind: tuple[Block[N], ...] = (self.rest, *self.further)
        for i, block in enumerate(behind, 1):
            more = 1 * (self.depth > i)
            # Those that repeat stand at every so many places from the first on.
            often = (self.depth - i - 1 + self.repeats) // self.repeats
            out.append((block, often * more if i > len(behind) - self.repeats else more))
        return out

    def blocks(self: Stage[int]) -> Iterator[Block[int]]:
        """The blocks one by one, named as the modules of the network."""
        if not self.first.stacked:
            yield self.first
            return
        yield replace(self.first, name=self.first.numbered(self.name, self.offset))
        behind = (self.rest, *self.further)
        for i in range(1, self.depth):
            over = max(0, i - len(behind))
            # Back by as many whole turns of those that repeat as it takes.
            block = behind[i - 1 - -(-over // self.repeats) * self.repeats]
            yield replace(block, name=block.numbered(self.name, self.offset + i))


def never(present: object) -> bool:
    """Whether a layer of one code is absent; of many codes the column decides row by row, so it has to be listed."""
    return isinstance(present, int) and present == 0
