"""ViT and DeiT: patches of the image as tokens, blocks of attention and an MLP (arXiv:2010.11929, arXiv:2012.12877).

A plain vision transformer with a class token, learned positions, biases and layer normalisation in front of each
branch, as timm's ``VisionTransformer`` of ``vit_*_patch*`` and ``deit_*_patch16_*``. All blocks add to one stream of
tokens, as wide as the embedding of the patches (the stem's width); a code divides the blocks into four groups in their
order and chooses the inner widths of each: ``C`` of the MLP and ``B`` of attention, which is made of heads of ``G``
channels. Published networks have 64 channels in a head, an attention as wide as the stream and MLPs of four times that.
Each size of patch is a family, and so is DeiT, whose networks are those of ``vit_patch16`` trained otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

from bsszoo.codes.families.base import (
    CodeFields,
    Family,
    Fixed,
    Published,
    Shapes,
    Training,
    WidthRange,
    counted,
    scaled,
    widths_in,
)
from bsszoo.codes.families.convnext import HeadNorm, layer_norm
from bsszoo.codes.layers import Block, Layer, N, Part, Placement, Stage, Stem, Vector

if TYPE_CHECKING:
    from torch import nn

#: Channels of a head in the published networks; no tensor shows it.
HEAD: Final = 64
#: What heads of weights are taken for: the first that all attentions are made of.
HEADS: Final = (HEAD, 32, 16)
#: Inner width of the published networks' MLPs over the stream's width.
RATIO: Final = 4
#: Groups of consecutive blocks in a code.
GROUPS: Final = 4
#: Tokens beside the patches': the class token.
TOKENS: Final = 1


@dataclass(frozen=True, slots=True)
class PatchEmbedding(Stem[N]):
    """A convolution of patches that do not overlap, and the learned class token and ``positions``."""

    positions: int = 0

    def output_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Whole patches only."""
        return size[0] // self.stride, size[1] // self.stride

    def layers(self) -> list[Layer[N]]:
        """The convolution."""
        a = self.out_width
        vectors = Vector("cls_token", a, tokens=TOKENS), Vector("pos_embed", a, tokens=self.positions)
        return [
            Layer(
                self.layer,
                self.in_width,
                a,
                self.kernel,
                self.stride,
                self.in_width,
                True,
                "",
                vectors=vectors,
                padded=False,
            )
        ]

    def build(self: Block[int], placement: Placement, activation: str, dd: dict[str, Any]) -> nn.Module:
        """The convolution."""
        from torch import nn

        return nn.Conv2d(self.in_width, self.out_width, self.kernel, self.stride, **dd)

    def title(self: Block[int]) -> str:
        """``Patches 16x16``."""
        return f"Patches {self.kernel}x{self.kernel}"


class TransformerBlock(Block[N]):
    """Attention of ``mid_width`` channels in heads of ``group_width``, an MLP of ``mlp_width``, each beside a skip."""

    __slots__ = ()

    kind: ClassVar[str] = "transformer"
    waisted: ClassVar[bool] = True
    letter: ClassVar[str] = "B"

    def layers(self) -> list[Layer[N]]:
        """Queries, keys and values in one, the projection, and the MLP's two."""
        path = f"{self.name}." if self.name else ""

        def linear(name: str, width_in: N, width: N, norm: str = "", **settings: Any) -> Layer[N]:
            vectors = layer_norm(f"{path}{norm}", width_in, "in") if norm else ()
            return Layer(
                f"{path}{name}",
                width_in,
                width,
                1,
                1,
                width_in,
                True,
                "",
                vectors=vectors,
                flat=True,
                tokens=TOKENS,
                **settings,
            )

        a, b, m = self.in_width, self.mid_width, cast("N", self.mlp_width)
        return [
            linear("attn.qkv", a, 3 * b, "norm1", fused=3, head_width=self.group_width),
            linear("attn.proj", b, a, attends=True, head_width=self.group_width),
            linear("mlp.fc1", a, m, "norm2"),
            linear("mlp.fc2", m, a),
        ]

    def parts(self) -> list[Part[N]]:
        """Attention and the MLP."""
        layers = self.layers()
        return [
            Part(f"{self.name}.attn", layers[:2], True, f"{self.name}.norm1"),
            Part(f"{self.name}.mlp", layers[2:], True, f"{self.name}.norm2"),
        ]

    def build(self: Block[int], placement: Placement, activation: str, dd: dict[str, Any]) -> nn.Module:
        """timm's block, on tokens made of features [n, c, h, w]."""
        from bsszoo.codes.families.vit_modules import OnFeatures, build_block

        return OnFeatures(build_block(self, placement, dd), TOKENS)

    def title(self: Block[int]) -> str:
        """``Attention, heads of 64 + MLP of 768``."""
        return f"Attention, heads of {self.group_width} + MLP of {self.mlp_width}"

    def third(self: Block[int]) -> int:
        """The width of attention B."""
        return self.mid_width


@dataclass(frozen=True)
class ViT(Family):
    """Plain vision transformers with patches of ``stem_kernel`` px; ``weights`` as ``beside_tensors``."""

    weights: str = ""

    @property
    def titles(self) -> dict[str, tuple[str, str]]:
        """Inner widths each, of the MLP, of attention and of its heads."""
        return super().titles | {
            "C": ("MLP width", "MLP widths"),
            "B": ("attention width", "attention widths"),
            "G": ("head width", "head widths"),
        }

    def block(self, name: str, width_in: N, width: N, third: N, kernel: int, stride: int, fixed: Fixed) -> Block[N]:
        """A block with an MLP of some width, attention of another (``third``) and the usual heads."""
        return self._block(name, width, third, 0 * width + HEAD, fixed)

    def blocks(
        self, index: int, width_in: N, width: N, thirds: Mapping[str, N], fixed: Fixed
    ) -> tuple[Block[N], Block[N]]:
        """The same for all of a group."""
        first, rest = (
            self._block(self.stage_name(index), width, thirds["B"], thirds["G"], fixed) for _ in ("first", "rest")
        )
        return first, rest

    def _block(self, name: str, mlp: N, attention: N, head: N, fixed: Fixed) -> Block[N]:
        a = fixed.stem_width
        return TransformerBlock(name, a, a, attention, 1, 1, group_width=head, mlp_width=mlp)

    def stem(self, in_chans: N, width: N) -> Stage[N]:
        """The patches, without positions, whose number depends on the image."""
        return self._stem(in_chans, width, 0)

    def _stem(self, in_chans: N, width: N, image_size: int) -> Stage[N]:
        k = self.stem_kernel
        positions = (image_size // k) ** 2 + TOKENS
        block: Block[N] = PatchEmbedding(
            "stem", in_chans, width, width, k, k, layer="patch_embed.proj", positions=positions
        )
        return self.single(block, 1, "patch_embed")

    def layout(
        self,
        widths: Sequence[N],
        depths: Sequence[N],
        thirds: Sequence[N],
        fixed: Fixed,
        num_classes: int,
        in_chans: int,
    ) -> tuple[Stage[N], ...]:
        """With the positions of the code's image size."""
        made: tuple[Stage[N], ...] = super().layout(widths, depths, thirds, fixed, num_classes, in_chans)
        return (self._stem(0 * fixed.stem_width + in_chans, fixed.stem_width, fixed.image_size), *made[1:])

    def behind(self, width: N, fixed: Fixed) -> list[Stage[N]]:
        """The layer normalisation of the tokens."""
        a = fixed.stem_width
        block: Block[N] = HeadNorm("norm", a, a, a, 1, 1)
        return [self.single(block, self.first_stage + GROUPS, "norm")]

    def stage_name(self, index: int) -> str:
        """All groups are in ``blocks``."""
        return "blocks"

    def words_of(self, form: str) -> str:
        """In the words of attention."""
        n = self.stages
        return f"{n} MLP widths, {n} depths, {n} attention widths, {n} head widths"

    @property
    def chooses_stride(self) -> bool:
        """There is none."""
        return False

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """The side of a patch, behind each group."""
        return (self.stem_kernel,) * GROUPS

    def last_side(self, side: int) -> int:
        """Whole patches."""
        return side // self.stem_kernel

    @property
    def global_pool(self) -> str:
        """The class token."""
        return "token"

    @property
    def sized(self) -> bool:
        """By the number of positions."""
        return True

    # -- spaces ----------------------------------------------------------------------------------------------

    def thirds_at(self, steps: Sequence[int]) -> tuple[tuple[Fraction, ...], ...]:
        """Whole heads up to the widest, as many times as wide as the MLPs are."""
        out = []
        for step, at_one in zip(steps, self.width_ranges, strict=True):
            most = scaled(float(max(self.third_values)) * step / at_one.step, HEAD)
            out.append(tuple(Fraction(HEAD * k) for k in range(1, most // HEAD + 1)))
        return tuple(out)

    def rescaled_entries(self, code: CodeFields, scale: float) -> dict[str, tuple[int, ...]]:
        """Inner widths rescaled, attention's to whole heads, which stay as wide."""
        inner, heads = code.thirds[: self.stages], code.thirds[self.stages :]
        return {
            "widths": tuple(scaled(scale * c, self.uniform_divisor) for c in code.widths),
            "bottlenecks": tuple(scaled(scale * b, g) for b, g in zip(inner, heads, strict=True)),
            "group_widths": heads,
        }

    # -- networks --------------------------------------------------------------------------------------------

    def network(self) -> Any:
        """timm's ``VisionTransformer``."""
        from bsszoo.codes.families.vit_modules import CodeVisionTransformer

        return CodeVisionTransformer

    def features(self) -> Any:
        """Its groups, whose keys stay those of the whole network."""
        from bsszoo.codes.families.vit_modules import CodeVisionTransformerFeatures

        return CodeVisionTransformerFeatures

    def timm_arguments(self, code: CodeFields) -> tuple[str, dict[str, Any]] | None:
        """timm's network of the family with other sizes, where all blocks are alike and attention is the stream's."""
        inner, heads = code.thirds[: self.stages], code.thirds[self.stages :]
        mlp, width = code.widths[0], code.stem_width
        if {*code.widths} != {mlp} or {*inner} != {width} or len({*heads}) > 1:
            return None
        ratio = mlp / width
        name = next((name for name, network in self.published.items() if network.timm), None)
        if name is None or int(width * ratio) != mlp:
            return None
        return name, {
            "img_size": code.image_size,
            "embed_dim": width,
            "depth": sum(code.depths),
            "num_heads": width // heads[0],
            "mlp_ratio": int(ratio) if ratio.is_integer() else ratio,
        }

    # -- weights ---------------------------------------------------------------------------------------------

    def code_of(self, shapes: Shapes) -> dict[str, Any] | None:
        """Read off ``blocks.0.attn.qkv`` and the like, with heads of 64 channels; None of other patches.

        Where attentions are not made of heads of 64, they are taken for heads of 32 or 16. The division into groups is
        not in the tensors: blocks that differ are in different ones, and where fewer than four kinds follow one another
        the longest groups are halved.
        """
        widths = [shape[0] // 3 for name, shape in shapes.items() if name.endswith("attn.qkv.weight")]
        head = next((head for head in HEADS if all(width % head == 0 for width in widths)), None)
        return None if head is None else self._code_of(shapes, (head,) * len(widths))

    def code_of_module(self, shapes: Shapes, module: Any) -> dict[str, Any] | None:
        """With the heads of its attentions, in their order; None where one does not say how wide they are."""
        # Of one that several blocks share there are tensors for each.
        modules = (one for _, one in module.named_modules(remove_duplicate=False))
        heads = [head_width(one) for one in modules if hasattr(one, "qkv") or hasattr(one, "in_proj_weight")]
        return None if None in heads else self._code_of(shapes, cast("list[int]", heads))

    def assumed(self, code: CodeFields) -> str:
        """The heads, unless it is a network whose weights are published."""
        networks = {(dict(one.fixed)["stem_width"], one.entries) for one in self.published.values() if one.timm}
        if (code.stem_width, (*code.widths, *code.depths, *code.thirds)) in networks:
            return ""
        return f"heads are taken to have {code.thirds[self.stages]} channels, which no tensor shows"

    def _code_of(self, shapes: Shapes, heads: Sequence[int]) -> dict[str, Any] | None:
        """The fields, where the attention of each block has heads of so many channels."""
        patch, positions = shapes.get("patch_embed.proj.weight", ()), shapes.get("pos_embed", ())
        if len(patch) != 4 or patch[2] != self.stem_kernel or len(positions) != 3:
            return None
        side = math.isqrt(max(0, positions[1] - TOKENS))
        depth = counted(shapes, lambda i: f"blocks.{i}.attn.qkv")
        if depth != len(heads):
            return None
        blocks = [
            (widths_in(shapes, f"blocks.{i}.mlp.fc1"), widths_in(shapes, f"blocks.{i}.attn.qkv") // 3, head)
            for i, head in enumerate(heads)
        ]
        groups = divided([(kind, len(list(same))) for kind, same in groupby(blocks)], self.stages)
        if groups is None or side * side + TOKENS != positions[1]:
            return None
        return {
            "widths": tuple(mlp for (mlp, _, _), _ in groups),
            "depths": tuple(depth for _, depth in groups),
            "bottlenecks": tuple(attention for (_, attention, _), _ in groups),
            "group_widths": tuple(head for (_, _, head), _ in groups),
            "stem_width": int(patch[0]),
            "image_size": side * self.stem_kernel,
        }

    @property
    def beside_tensors(self) -> str:
        """How images are normalised for the published weights; empty for ImageNet's mean and deviation."""
        return self.weights

    def runs_as(self, module: Any) -> bool:
        """Whether it normalises, activates and pools as the family's networks do, on square images."""
        from bsszoo.codes.families.vit_modules import runs_alike

        return runs_alike(module)

    def from_torchvision(self, shapes: Shapes) -> Mapping[str, str] | None:
        """``encoder.layers.encoder_layer_0.mlp.0`` is ``blocks.0.mlp.fc1``, and so on."""
        if "encoder.pos_embedding" not in shapes:
            return None
        names = {
            "conv_proj": "patch_embed.proj",
            "class_token": "cls_token",
            "encoder.pos_embedding": "pos_embed",
            "encoder.ln": "norm",
            "heads.head": "head",
        }
        for i in range(counted(shapes, lambda i: f"encoder.layers.encoder_layer_{i}.ln_1")):
            theirs, ours = f"encoder.layers.encoder_layer_{i}", f"blocks.{i}"
            attention = f"{theirs}.self_attention"
            names |= {f"{theirs}.ln_1": f"{ours}.norm1", f"{theirs}.ln_2": f"{ours}.norm2"}
            names |= {f"{attention}.in_proj_{kind}": f"{ours}.attn.qkv.{kind}" for kind in ("weight", "bias")}
            names[f"{attention}.out_proj"] = f"{ours}.attn.proj"
            # The names of torchvision's files, and of its networks since 0.13.
            names |= {f"{theirs}.mlp.linear_{k}": f"{ours}.mlp.fc{k}" for k in (1, 2)}
            names |= {f"{theirs}.mlp.0": f"{ours}.mlp.fc1", f"{theirs}.mlp.3": f"{ours}.mlp.fc2"}
        return names


def head_width(attention: Any) -> int | None:
    """The channels of a head of an attention of timm's or PyTorch's form; None where it does not say."""
    width, number = getattr(attention, "head_dim", None), getattr(attention, "num_heads", None)
    if isinstance(width, int):
        return width
    outputs = getattr(getattr(attention, "qkv", None), "out_features", None)
    return outputs // 3 // number if isinstance(outputs, int) and isinstance(number, int) and number else None


#: Widths of an MLP, of an attention and of its heads.
Kind = tuple[int, int, int]


def divided(runs: Sequence[tuple[Kind, int]], groups: int) -> list[tuple[Kind, int]] | None:
    """Runs of like blocks as so many groups, the longest halved until there are as many; None where that cannot be.

    Example:
        >>> wide, narrow = (768, 192, 64), (384, 128, 64)
        >>> [depth for _, depth in divided([(wide, 12)], 4)]
        [3, 3, 3, 3]
        >>> divided([(wide, 5), (narrow, 2)], 4) == [(wide, 2), (wide, 1), (wide, 2), (narrow, 2)]
        True
    """
    made = list(runs)
    while len(made) < groups:
        at = max(range(len(made)), key=lambda i: made[i][1], default=None)
        if at is None or made[at][1] < 2:
            return None
        kind, depth = made[at]
        made[at : at + 1] = [(kind, (depth + 1) // 2), (kind, depth // 2)]
    return made if len(made) == groups else None


def entries(width: int, depth: int) -> tuple[int, ...]:
    """The entries of a published network, a quarter of whose blocks are in each group."""
    n = GROUPS
    return (*(RATIO * width,) * n, *(depth // n,) * n, *(width,) * n, *(HEAD,) * n)


#: As DeiT is trained on ImageNet (its Table 9), but for repeated augmentation. The authors' rate is 5e-4 at a batch of
#: 512, in proportion to it.
DEIT_TRAINING: Final = Training(
    0.05,
    1e-3,
    300,
    drop_path_rate=0.1,
    head_scaled=False,
    interpolation="bicubic",
    source="the DeiT paper, but for repeated augmentation",
    optimiser="adamw",
    warmup_epochs=5.0,
    warmup_from=1e-3,
    min_lr=1e-5,
    policy="rand-m9-mstd0.5-inc1",
    mixup=0.8,
    cutmix=1.0,
    erase=0.25,
    short_lr=1e-3,
)

#: Width and depth of each published size, by its name, and its title.
_SIZES: Final[Mapping[str, tuple[int, int]]] = MappingProxyType(
    {"tiny": (192, 12), "small": (384, 12), "base": (768, 12), "large": (1024, 24)}
)
_21K: Final = "augreg_in21k_ft_in1k"


def published(kind: str, size: str, patch: int, image_size: int, *tags: str, **more: Any) -> tuple[str, Published]:
    """The name of a published network, which is timm's, and what it is."""
    width, depth = _SIZES[size]
    side = f" at {image_size} px" if image_size != 224 else ""
    title = f"{kind}-{size.capitalize()}/{patch}{side}"
    fixed = {"stem_width": width, "image_size": image_size}
    return f"{kind.lower()}_{size}_patch{patch}_{image_size}", Published(
        entries(width, depth), title, tags, fixed=fixed, **more
    )


def vit(
    name: str, title: str, patch: int, *networks: tuple[str, Published], size: str = "tiny", **settings: Any
) -> ViT:
    """The family of a size of patch, with a network of some size as its original.

    The ranges of its space, of which the papers have none, are ours: about as much below and above.
    """
    width, depth = _SIZES[size]
    return ViT(
        name=name,
        title=title,
        letter="BG",
        first_stage=2,
        strides=(1,) * GROUPS,
        kernels=(1,) * GROUPS,
        stem_kernel=patch,
        stem_width=width,
        stage2=None,
        activation="gelu",
        original=entries(width, depth),
        original_stage2_depth=0,
        width_ranges=(WidthRange(width // 2, width, 6 * width),) * GROUPS,
        max_depths=(5,) * GROUPS,
        third_values=tuple(Fraction(HEAD * k) for k in range(1, 4 * width // (3 * HEAD) + 1)),
        grid_divisor=8,
        uniform_divisor=8,
        interpolation="bicubic",
        first_conv="patch_embed.proj",
        classifier="head",
        training=DEIT_TRAINING,
        published=MappingProxyType(dict(networks)),
        **{"image_size": 224, **settings},
    )


DEIT = vit(
    "deit",
    "DeiT",
    16,
    published("DeiT", "tiny", 16, 224, "fb_in1k", alias="deit_tiny"),
    published("DeiT", "small", 16, 224, "fb_in1k", alias="deit_small"),
    published("DeiT", "base", 16, 224, "fb_in1k", alias="deit_base"),
    published("DeiT", "base", 16, 384, "fb_in1k"),
)
#: The same networks as DeiT's with others' weights.
VIT_PATCH16 = vit(
    "vit_patch16",
    "ViT/16",
    16,
    published("ViT", "tiny", 16, 224, _21K),
    published("ViT", "tiny", 16, 384, _21K),
    published("ViT", "small", 16, 224, _21K, "augreg_in1k"),
    published("ViT", "small", 16, 384, _21K, "augreg_in1k"),
    published("ViT", "base", 16, 224, "augreg2_in21k_ft_in1k", _21K, "orig_in21k_ft_in1k", "augreg_in1k", "sam_in1k"),
    published("ViT", "base", 16, 384, _21K, "orig_in21k_ft_in1k", "augreg_in1k"),
    published("ViT", "large", 16, 224, _21K),
    published("ViT", "large", 16, 384, _21K),
    weights="with images normalised by a mean and a deviation of 0.5",
)
VIT_PATCH32 = vit(
    "vit_patch32",
    "ViT/32",
    32,
    published("ViT", "small", 32, 224, _21K),
    published("ViT", "small", 32, 384, _21K),
    published("ViT", "base", 32, 224, _21K, "augreg_in1k", "sam_in1k"),
    published("ViT", "base", 32, 384, _21K, "augreg_in1k"),
    published("ViT", "large", 32, 384, "orig_in21k_ft_in1k"),
    size="small",
)
#: timm's ``vit_small_patch8_224`` has no classes.
VIT_PATCH8 = vit("vit_patch8", "ViT/8", 8, published("ViT", "base", 8, 224, "augreg2_in21k_ft_in1k", _21K), size="base")
#: For pictures of 32 px, of which patches of 16 px leave four.
VIT_PATCH4 = vit("vit_patch4", "ViT/4", 4, published("ViT", "tiny", 4, 32, timm=False), image_size=32)
