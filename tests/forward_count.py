"""A second count, written from the papers' descriptions of the networks and sharing nothing with ``bsszoo.codes``.

It walks a forward pass with a tensor's shape in hand. Sizes come from the convolution formula with explicit padding,
parameters are added module by module. The counter knows nothing of stages, blocks or arrays of codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction


class Walk:
    """A tensor shape [c, h, w] on its way through a network, and what it met."""

    def __init__(self, c: int, h: int, w: int) -> None:
        self.c, self.h, self.w = c, h, w
        self.macs = self.params = self.activations = self.main_convs = 0

    def window(self, k: int, stride: int) -> tuple[int, int]:
        pad = (k - 1) // 2
        return (self.h + 2 * pad - k) // stride + 1, (self.w + 2 * pad - k) // stride + 1

    def conv_bn(self, out: int, k: int, stride: int = 1, *, groups: int = 1, main: bool = True) -> None:
        """A convolution without bias and its batch normalisation (weight and bias of each channel)."""
        self.h, self.w = self.window(k, stride)
        weights = k * k * (self.c // groups) * out
        self.macs += weights * self.h * self.w
        self.params += weights + out + out
        self.activations += out * self.h * self.w
        self.main_convs += main
        self.c = out

    def projection(self, c: int, h: int, w: int, out: int, stride: int) -> None:
        """The 1x1 shortcut of a block that was entered with shape [c, h, w]."""
        side = Walk(c, h, w)
        side.conv_bn(out, 1, stride, main=False)
        assert (side.h, side.w) == (self.h, self.w)
        self.macs += side.macs
        self.params += side.params
        self.activations += side.activations

    def squeeze_excite(self, hidden: int) -> None:
        """Two 1x1 convolutions with bias on the pooled 1x1 map."""
        self.macs += self.c * hidden + hidden * self.c
        self.params += self.c * hidden + hidden + hidden * self.c + self.c
        self.activations += hidden + self.c

    def linear(self, out: int) -> None:
        self.macs += self.c * out
        self.params += self.c * out + out


def resnet(
    c: Sequence[int],
    n: Sequence[int],
    b: Sequence[int] | None,
    stem: int,
    *,
    size: tuple[int, int] = (224, 224),
    in_chans: int = 3,
    classes: int = 1000,
    stride_in: str = "3x3",
    basic: Sequence[int] | None = None,
    g: Sequence[int] | None = None,
    squeeze: bool = False,
) -> Walk:
    """ResNet-18 (``b`` None) or ResNet-50 with widths ``c``, depths ``n`` and bottleneck widths ``b``.

    ``basic`` are the widths between the two convolutions of a basic block, where they are not ``c``. With ``g``, the
    group widths of its 3x3 convolutions, ResNeXt. ``squeeze``: with timm's squeeze-and-excitation, whose hidden width
    is a sixteenth in multiples of 8.
    """
    net = Walk(in_chans, *size)
    net.conv_bn(stem, 7, 2)
    net.h, net.w = net.window(3, 2)  # the max pooling
    for i in range(4):
        for j in range(n[i]):
            stride = 2 if i > 0 and j == 0 else 1
            shape = net.c, net.h, net.w
            if b is None:
                net.conv_bn((basic or c)[i], 3, stride)
                net.conv_bn(c[i], 3)
            else:
                net.conv_bn(b[i], 1, stride if stride_in == "1x1" else 1)
                net.conv_bn(b[i], 3, stride if stride_in == "3x3" else 1, groups=b[i] // g[i] if g else 1)
                net.conv_bn(c[i], 1)
            if squeeze:
                net.squeeze_excite(max(8, int(c[i] / 16 + 4) // 8 * 8))
            if stride != 1 or shape[0] != c[i]:
                net.projection(*shape, c[i], stride)
    if classes:
        net.linear(classes)
    return net


def divisible(width: float) -> int:
    """MobileNetV3's ``_make_divisible`` by 8."""
    nearest = max(8, int(width + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * width else nearest


def mbconv_net(
    c: Sequence[int],
    n: Sequence[int],
    t: Sequence[int],
    *,
    stem: int,
    stage2: tuple[int, int],
    kernels: Sequence[int],
    gates: Sequence[int] = (),
    strides: Sequence[int] = (2, 2, 2, 1, 2, 1),
    head: int = 1280,
    stage2_stride: int = 1,
    fused: Sequence[int] = (),
    efficient: bool = False,
    size: tuple[int, int] = (224, 224),
    in_chans: int = 3,
    classes: int = 1000,
    inner: Sequence[tuple[int, int]] | None = None,
) -> Walk:
    """MobileNetV2, EfficientNet and their like with widths ``c``, depths ``n`` and expansions ``t``.

    ``inner`` are the expanded widths of the first and of the further blocks of each stage, in place of ``t``; ``gates``
    the stages with squeeze-and-excitation, stage 2 and then those of ``c``; ``efficient`` MobileNetV3's head and gates;
    ``fused`` the stages of EfficientNetV2 with dense convolutions, whose stage 2 has one in each block.
    """
    net = Walk(in_chans, *size)
    net.conv_bn(stem, 3, 2)
    rows = [(stage2[0], stage2[1], 1, 3, stage2_stride)]
    rows += list(zip(c, n, inner or t, kernels, strides, strict=True))
    for stage, (width, depth, expansion, kernel, first_stride) in enumerate(rows):
        for j in range(depth):
            came = net.c
            if fused and stage == 0:
                net.conv_bn(width, kernel)
                continue
            if stage in fused:
                mid = expansion[j > 0] if isinstance(expansion, tuple) else came * expansion
                net.conv_bn(mid, kernel, first_stride if j == 0 else 1)
                net.conv_bn(width, 1)
                continue
            if isinstance(expansion, tuple):
                net.conv_bn(expansion[j > 0], 1)
            elif expansion != 1:
                net.conv_bn(came * expansion, 1)
            net.conv_bn(net.c, kernel, first_stride if j == 0 else 1, groups=net.c)
            if stage in gates:
                net.squeeze_excite(divisible(net.c / 4) if efficient else max(1, came // 4))
            net.conv_bn(width, 1)
    if efficient:
        net.conv_bn(6 * net.c, 1)
        net.h = net.w = 1
        net.linear(head)  # a 1x1 convolution on the pooled features
        net.activations += head
        net.main_convs += 1
        net.c = head
    else:
        net.conv_bn(head, 1)
    if classes:
        net.linear(classes)
    return net


#: MobileNetV4's tables: of each stage its blocks, by the kernels of the depthwise convolutions before and between the
#: 1x1 ones, and the expansion as printed.
MOBILENETV4: dict[str, tuple[str, list[list[tuple[int, int, int]]]]] = {
    "mobilenetv4_conv_small": (
        "convs",
        [
            [(5, 5, 3), (0, 3, 2), (0, 3, 2), (0, 3, 2), (0, 3, 2), (3, 0, 4)],
            [(3, 3, 6), (5, 5, 4), (0, 5, 4), (0, 5, 3), (0, 3, 4), (0, 3, 4)],
        ],
    ),
    "mobilenetv4_conv_medium": (
        "fused",
        [
            [(3, 5, 4), (3, 3, 2)],
            [(3, 5, 6), (3, 3, 4), (3, 3, 4), (3, 5, 4), (3, 3, 4), (3, 0, 4), (0, 0, 2), (3, 0, 4)],
            [
                (5, 5, 6),
                (5, 5, 4),
                (3, 5, 4),
                (3, 5, 4),
                (0, 0, 4),
                (3, 0, 4),
                (3, 5, 2),
                (5, 5, 4),
                (0, 0, 4),
                (0, 0, 4),
                (5, 0, 2),
            ],
        ],
    ),
    "mobilenetv4_conv_large": (
        "fused",
        [
            [(3, 5, 4), (3, 3, 4)],
            [
                (3, 5, 4),
                (3, 3, 4),
                (3, 3, 4),
                (3, 3, 4),
                (3, 5, 4),
                (5, 3, 4),
                (5, 3, 4),
                (5, 3, 4),
                (5, 3, 4),
                (5, 3, 4),
                (3, 0, 4),
            ],
            [
                (5, 5, 4),
                (5, 5, 4),
                (5, 5, 4),
                (5, 5, 4),
                (5, 0, 4),
                (5, 3, 4),
                (5, 0, 4),
                (5, 0, 4),
                (5, 3, 4),
                (5, 5, 4),
                (5, 0, 4),
                (5, 0, 4),
                (5, 0, 4),
            ],
        ],
    ),
}


def mobilenetv4(
    family: str,
    c: Sequence[int],
    n: Sequence[int],
    t: Sequence[int],
    *,
    stem: int,
    head: int,
    size: tuple[int, int] = (224, 224),
    in_chans: int = 3,
    classes: int = 1000,
    inner: Sequence[tuple[int, int]] | None = None,
) -> Walk:
    """MobileNetV4 with widths ``c``, depths ``n`` and expansions ``t`` of each stage's second block.

    The other blocks' expansions are to that as printed. ``inner`` are the inner widths of the first and the second
    block of each stage in place of ``t``.
    """
    kind, tables = MOBILENETV4[family]
    net = Walk(in_chans, *size)
    net.conv_bn(stem, 3, 2)
    for stage, width in enumerate(c):
        dense = 2 if kind == "convs" else 1
        table = tables[stage - dense] if stage >= dense else [(0, 3, 1)]
        for j in range(n[stage]):
            start, middle, printed = table[min(j, len(table) - 1)]
            second = table[min(1, len(table) - 1)][2]
            stride = 1 if j else 2
            if inner:
                mid = inner[stage][0] if j == 0 else max(1, int(Fraction(inner[stage][1] * printed, second)))
            else:
                mid = max(1, int(Fraction(net.c * t[stage] * printed, second)))
            if stage < dense:
                net.conv_bn(mid, 3, stride)
            else:
                if start:
                    net.conv_bn(net.c, start, 1 if middle else stride, groups=net.c)
                net.conv_bn(mid, 1)
                if middle:
                    net.conv_bn(mid, middle, stride, groups=mid)
            net.conv_bn(width, 1)
    net.conv_bn(head, 1)
    net.h = net.w = 1
    net.conv_bn(1280, 1)
    if classes:
        net.linear(classes)
    return net


_ALL = range(7)
_EFFICIENTNET = {"kernels": (3, 5, 3, 5, 5, 3), "gates": _ALL}
_EFFICIENTNETV2 = {"kernels": (3, 3, 3, 3, 3), "strides": (2, 2, 2, 1, 2), "gates": (3, 4, 5), "fused": (1, 2)}
#: What the papers' tables say of each family of inverted residual blocks: kernels, stages with squeeze-and-excitation.
MBCONV: dict[str, dict[str, Sequence[int]]] = {
    "mobilenetv2": {"kernels": (3, 3, 3, 3, 3, 3)},
    "efficientnet_b0": _EFFICIENTNET,
    "efficientnet_b1": _EFFICIENTNET,
    "efficientnet": _EFFICIENTNET,
    "efficientnet_lite": {"kernels": (3, 5, 3, 5, 5, 3)},
    "tf_efficientnet_lite": {"kernels": (3, 5, 3, 5, 5, 3)},
    "mnasnet": {"kernels": (3, 5, 5, 3, 5, 3)},
    "semnasnet": {"kernels": (3, 5, 3, 3, 5, 3), "gates": (2, 4, 5)},
    "efficientnetv2": _EFFICIENTNETV2,
    "tf_efficientnetv2": _EFFICIENTNETV2,
    "mobilenetv3_large": {"kernels": (3, 5, 3, 3, 3, 5), "strides": (2, 2, 2, 1, 1, 2), "gates": (2, 5, 6)},
    "mobilenetv3_small": {"kernels": (3, 5, 5, 5), "strides": (2, 2, 1, 2), "gates": (0, 2, 3, 4), "stage2_stride": 2},
    "mnasnet_small": {"kernels": (3, 3, 5, 3, 5, 3), "gates": (3, 4, 5)},
}


def fpn_and_rpn(widths: Sequence[int], sizes: Sequence[int]) -> tuple[int, int]:
    """MACs and params of Mask R-CNN's pyramid (256 channels, biases) and its region proposal network (3 anchors)."""
    macs = params = 0
    for c, side in zip(widths, sizes, strict=True):
        weights = c * 256 + 9 * 256 * 256
        macs += weights * side * side
        params += weights + 2 * 256
    head = 9 * 256 * 256 + 256 * 3 + 256 * 12
    # The proposal network is shared by the levels and runs on one more, the last one pooled to half its size.
    for side in (*sizes, -(-sizes[-1] // 2)):
        macs += head * side * side
    return macs, params + head + 256 + 3 + 12


def retina_parts(
    widths: Sequence[int], sizes: Sequence[int], *, anchors: int = 9, classes: int = 80
) -> tuple[int, int]:
    """MACs and params of RetinaNet's pyramid on C3 to C5 (P6 from C5, P7 from P6) and its two heads."""
    macs = params = 0
    for c, side in zip(widths, sizes, strict=True):
        weights = c * 256 + 9 * 256 * 256
        macs += weights * side * side
        params += weights + 2 * 256
    p6, p7 = -(-sizes[-1] // 2), -(-sizes[-1] // 4)
    for inside, side in ((widths[-1], p6), (256, p7)):
        macs += 9 * inside * 256 * side * side
        params += 9 * inside * 256 + 256
    outputs = anchors * classes + anchors * 4
    head = 2 * 4 * 9 * 256 * 256 + 9 * 256 * outputs
    params += head + 2 * 4 * 256 + outputs
    return macs + sum(head * side * side for side in (*sizes, p6, p7)), params


def detector_cost(
    c: Sequence[int], n: Sequence[int], b: Sequence[int], *, retina: bool, stride_in: str
) -> tuple[int, int]:
    """(MACs, params) as the paper's Table 5 counts RetinaNet (whole) or Mask R-CNN, at 800x800.

    Mask R-CNN's MACs are those of backbone, FPN and RPN; its params include the box and the mask head.
    """
    backbone = resnet(c, n, b, 64, size=(800, 800), classes=0, stride_in=stride_in)
    if retina:
        macs, params = retina_parts(c[1:], (100, 50, 25))
    else:
        macs, params = fpn_and_rpn(c, (200, 100, 50, 25))
        # Box head: 7x7 maps, two layers of 1024, 91 classes. Mask head: four 3x3, one transposed 2x2, one 1x1.
        params += (256 * 49 + 1) * 1024 + (1024 + 1) * 1024 + (1024 + 1) * (91 + 364)
        params += 4 * (9 * 256 + 1) * 256 + (4 * 256 + 1) * 256 + (256 + 1) * 91
    return backbone.macs + macs, backbone.params + params


def regnet(
    c: Sequence[int],
    n: Sequence[int],
    g: Sequence[int],
    stem: int,
    *,
    squeeze: bool,
    size: tuple[int, int] = (224, 224),
    in_chans: int = 3,
    classes: int = 1000,
) -> Walk:
    """RegNetX, or RegNetY with ``squeeze``: widths ``c``, depths ``n`` and group widths ``g``."""
    net = Walk(in_chans, *size)
    net.conv_bn(stem, 3, 2)
    for width, blocks, group in zip(c, n, g, strict=True):
        for i in range(blocks):
            before = (net.c, net.h, net.w)
            stride = 2 if i == 0 else 1
            net.conv_bn(width, 1)
            net.conv_bn(width, 3, stride, groups=width // group)
            if squeeze:
                net.squeeze_excite(max(1, round(before[0] * 0.25)))
            net.conv_bn(width, 1)
            if stride == 2 or before[0] != width:
                net.projection(*before, width, stride)
    if classes:
        net.linear(classes)
    return net


def vit(
    mlp: Sequence[int],
    n: Sequence[int],
    attention: Sequence[int],
    width: int,
    *,
    patch: int,
    trained_at: int,
    size: tuple[int, int] = (224, 224),
    in_chans: int = 3,
    classes: int = 1000,
) -> Walk:
    """A plain ViT: inner widths of the MLPs and of attention, depths, and the width of the embedding.

    It has positions for square images of ``trained_at`` px, whatever the size of the image.
    """
    net = Walk(in_chans, *size)
    patches, grid = (size[0] // patch) * (size[1] // patch), trained_at // patch
    net.macs += patches * width * in_chans * patch**2
    net.params += width * in_chans * patch**2 + width  # the patches
    net.params += width + (grid * grid + 1) * width  # class token and positions
    net.activations += patches * width
    net.main_convs += 1
    tokens = patches + 1

    def linear(before: int, after: int) -> None:
        net.macs += tokens * before * after
        net.params += before * after + after
        net.activations += tokens * after
        net.main_convs += 1

    for m, depth, a in zip(mlp, n, attention, strict=True):
        for _ in range(depth):
            net.params += 2 * width
            linear(width, 3 * a)
            net.macs += tokens * a * tokens  # each query with each key, of all heads
            net.macs += tokens * tokens * a  # their weights and the values
            linear(a, width)
            net.params += 2 * width
            linear(width, m)
            linear(m, width)
    net.params += 2 * width
    if classes:
        net.c = width
        net.linear(classes)
    return net


def convnext(
    c: Sequence[int],
    n: Sequence[int],
    inner: Sequence[int],
    stem: int,
    *,
    responds: bool,
    size: tuple[int, int] = (224, 224),
    in_chans: int = 3,
    classes: int = 1000,
) -> Walk:
    """ConvNeXt, or V2 with ``responds``: widths ``c``, depths ``n`` and inner widths of the MLPs."""
    net = Walk(in_chans, *size)

    def conv(out: int, k: int, stride: int, pad: int = 0, groups: int = 1) -> None:
        """A convolution with a bias."""
        net.h, net.w = (net.h + 2 * pad - k) // stride + 1, (net.w + 2 * pad - k) // stride + 1
        weights = k * k * (net.c // groups) * out
        net.macs += weights * net.h * net.w
        net.params += weights + out
        net.activations += out * net.h * net.w
        net.main_convs += 1
        net.c = out

    conv(stem, 4, 4)
    net.params += 2 * stem
    for i in range(4):
        if i or c[0] != stem:
            net.params += 2 * net.c
            conv(c[i], 2 if i else 1, 2 if i else 1)
        for _ in range(n[i]):
            conv(c[i], 7, 1, 3, groups=c[i])
            net.params += 2 * c[i]
            conv(inner[i], 1, 1)
            net.params += 2 * inner[i] if responds else c[i]  # of the response normalisation, or the layer scale
            conv(c[i], 1, 1)
    net.params += 2 * net.c
    if classes:
        net.linear(classes)
    return net


def ghostnet(
    c: Sequence[int],
    n: Sequence[int],
    t: Sequence[int],
    *,
    stem: int,
    stage2: tuple[int, int],
    head: int,
    size: tuple[int, int] = (224, 224),
    in_chans: int = 3,
    classes: int = 1000,
    inner: Sequence[tuple[int, int]] | None = None,
) -> Walk:
    """GhostNet with widths ``c``, depths ``n`` and expansions ``t``, or ``inner`` widths as ``mbconv_net``'s."""
    net = Walk(in_chans, *size)
    net.conv_bn(stem, 3, 2)
    # Kernel, inner width, output width, squeeze-and-excitation and stride of each block, as in the paper's table.
    rows = [(3, None, stage2[0], False, 1)] * stage2[1]
    for i, (width, depth) in enumerate(zip(c, n, strict=True)):
        for j in range(depth):
            inside = None if inner is None else inner[i][j > 0]
            if i == 2 and j > 1:
                second = t[i] * width if inside is None else inside
                inside = min(second, int(23 * second / 25 + 2) // 4 * 4 or second)
            squeezes = (False, True, False, True, j % 2 == 0)[i]
            rows.append(((3, 5, 3, 3, 5)[i], inside or -t[i], width, squeezes, 2 if j == 0 and i != 3 else 1))

    def ghost(out: int) -> None:
        half = -(-out // 2)
        net.conv_bn(half, 1)
        net.conv_bn(half, 3, groups=half)
        net.c = out  # both, less the last one of an odd number

    for kernel, inside, width, squeezes, stride in rows:
        before = net.c, net.h, net.w
        ghost(net.c if inside is None else inside if inside > 0 else -inside * net.c)
        if stride > 1:
            net.conv_bn(net.c, kernel, stride, groups=net.c)
        if squeezes:
            hidden = max(4, int(net.c / 4 + 2) // 4 * 4)
            net.squeeze_excite(hidden + 4 if hidden < 0.9 * net.c / 4 else hidden)
        ghost(width)
        if stride > 1 or before[0] != width:
            side = Walk(*before)
            side.conv_bn(side.c, kernel, stride, groups=side.c)
            side.conv_bn(width, 1)
            assert (side.h, side.w) == (net.h, net.w)
            net.macs += side.macs
            net.params += side.params
            net.activations += side.activations
    net.conv_bn(6 * net.c, 1)
    net.h = net.w = 1
    net.linear(head)  # a 1x1 convolution on the pooled features
    net.activations += head
    net.main_convs += 1
    net.c = head
    if classes:
        net.linear(classes)
    return net
