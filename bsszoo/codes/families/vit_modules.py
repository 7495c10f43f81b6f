"""ViT codes as timm's ``VisionTransformer``: its constructor, and blocks of other widths where a code has them."""

from __future__ import annotations

import math
from typing import Any

import torch
from timm.layers.activations import GELU
from timm.layers.attention import Attention
from timm.layers.drop import calculate_drop_path_rates
from timm.models import FeatureInfo
from timm.models._manipulate import named_apply
from timm.models.vision_transformer import Block as TimmBlock
from timm.models.vision_transformer import ResPostBlock, VisionTransformer, get_init_weights_vit
from torch import nn

from bsszoo.codes.layers import Block, Placement, Stage
from bsszoo.errors import CodeError

_POOLS = ("", "avg", "avgmax", "max", "token")


class CodeVisionTransformer(VisionTransformer):
    """A timm ``VisionTransformer`` of a code. It takes images of other sizes as well, with its positions resampled.

    Args:
        stages: Of a ViT code with ``in_chans`` input channels.
        output_stride: 32 only, which changes nothing.
        global_pool: ``token``, or ``avg``, ``avgmax`` or ``max`` of the patches' tokens, or empty for none.

    Others as ``bsszoo.models.build``.

    Raises:
        CodeError: An output stride or a pooling that it does not have, or an image smaller than a patch.
    """

    def __init__(
        self,
        stages: tuple[Stage[int], ...],
        num_classes: int = 1000,
        in_chans: int = 3,
        output_stride: int = 32,
        global_pool: str = "token",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if output_stride != 32:
            raise CodeError(f"A ViT has no stride to turn into dilation: output_stride {output_stride} is not for it.")
        if global_pool not in _POOLS:
            raise CodeError(f"A ViT has no pooling {global_pool!r}; it has token, avg, avgmax, max and none.")
        stem, *body, _, _ = stages
        blocks = [block for stage in body for block in stage.blocks()]
        first, width = blocks[0], stem.first.out_width
        patch: Any = stem.first
        side = math.isqrt(patch.positions - first.layers()[0].tokens)
        if side == 0:
            raise CodeError(f"The image is smaller than a patch of {patch.kernel}x{patch.kernel} px.")
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        # timm gives all blocks one number of heads and one width of the MLP; attention is the stream's.
        heads = width // (first.group_width or 1)
        alike = heads * (first.group_width or 1) == width == first.mid_width
        super().__init__(
            img_size=patch.kernel * side,
            patch_size=patch.kernel,
            in_chans=in_chans,
            num_classes=num_classes,
            global_pool=global_pool,  # type: ignore[arg-type]
            # The normalisation stays in front of the pooling, whatever that is: the tensors are the same ones.
            fc_norm=False,
            embed_dim=width,
            depth=len(blocks),
            num_heads=heads if alike else 1,
            mlp_ratio=(first.mlp_width or 0) / width,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
            dynamic_img_size=True,
            **dd,
        )
        rates = calculate_drop_path_rates(drop_path_rate, len(blocks))
        for i, block in enumerate(blocks):
            made: Any = self.blocks[i]
            fits = made.attn.head_dim == block.group_width and made.attn.attn_dim == block.mid_width
            if not fits or made.mlp.fc1.out_features != block.mlp_width:
                self.blocks[i] = build_block(block, Placement(1, drop_path=rates[i]), dd)  # type: ignore[arg-type]
                named_apply(get_init_weights_vit(needs_reset=False), self.blocks[i])

    def forward_features(self, x: torch.Tensor, *arguments: Any, **named: Any) -> torch.Tensor:
        """As timm's, of images that are whole patches; others are a ``CodeError``."""
        made: Any = self
        sides, (patch, _) = tuple(x.shape[2:]), made.patch_embed.patch_size
        if any(isinstance(side, int) and side % patch for side in sides):
            raise CodeError(f"Images of {sides[0]} x {sides[1]} px are not made of whole patches of {patch} px.")
        features: torch.Tensor = super().forward_features(x, *arguments, **named)
        return features

    def _pos_embed(self, x: torch.Tensor) -> torch.Tensor:
        # timm resamples the positions of every network that is exported, also where the images have the network's own
        # size: an operation for nothing, which OpenVINO and LiteRT do not have. Sizes that are free are no integers.
        side = tuple(x.shape[1:3])
        made: Any = self
        if not all(isinstance(pixels, int) for pixels in side) or side != tuple(made.patch_embed.grid_size):
            return super()._pos_embed(x)
        tokens = torch.cat([made.cls_token.expand(x.shape[0], -1, -1), x.flatten(1, 2)], dim=1)
        embedded: torch.Tensor = made.pos_drop(tokens + made.pos_embed)
        return embedded


class CodeVisionTransformerFeatures(CodeVisionTransformer):
    """A ``CodeVisionTransformer`` without a head that returns the features behind each group; arguments as its.

    ``out_indices`` are indices of groups (by default all four).
    """

    def __init__(
        self,
        stages: tuple[Stage[int], ...],
        in_chans: int = 3,
        output_stride: int = 32,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        out_indices: tuple[int, ...] = (0, 1, 2, 3),
        **parts: Any,
    ) -> None:
        super().__init__(stages, 0, in_chans, output_stride, "", drop_rate, drop_path_rate, **parts)
        _, *body, _, _ = stages
        ends = [sum(stage.depth for stage in body[: i + 1]) - 1 for i in range(len(body))]
        self.norm: Any = nn.Identity()
        self.feature_info: Any = FeatureInfo([self.feature_info[end] for end in ends], out_indices)
        self._ends = [ends[i] for i in self.feature_info.out_indices]

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:  # type: ignore[override]
        """The features [b, c, h, w], in the order of the network."""
        features: Any = self.forward_intermediates(x, indices=self._ends, intermediates_only=True)
        return list(features)


class OnFeatures(nn.Module):
    """A block of tokens on features [n, c, h, w], the first of which stand in for those beside them as well."""

    def __init__(self, block: nn.Module, beside: int) -> None:
        super().__init__()
        self.block, self.beside = block, beside

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The features behind it [n, c, h, w]."""
        tokens = x.flatten(2).transpose(1, 2)
        tokens = self.block(torch.cat([tokens[:, : self.beside], tokens], dim=1))[:, self.beside :]
        made: torch.Tensor = tokens.transpose(1, 2).reshape(x.shape)
        return made


def build_block(block: Block[int], placement: Placement, dd: dict[str, Any]) -> nn.Module:
    """timm's block with the heads and the inner widths of a code's."""
    width, head, attention, mlp = block.in_width, block.group_width, block.mid_width, block.mlp_width
    assert head is not None
    assert mlp is not None
    made = TimmBlock(width, 1, 1.0, qkv_bias=True, drop_path=placement.drop_path, depth=0, **dd)
    made.attn = Attention(width, attention // head, attn_head_dim=head, qkv_bias=True, **dd)
    hidden: Any = made.mlp
    hidden.fc1, hidden.fc2 = nn.Linear(width, mlp, **dd), nn.Linear(mlp, width, **dd)
    return made


def runs_alike(module: nn.Module) -> bool:
    """Whether a built network with a ``CodeVisionTransformer``'s tensors computes the same: it may be wrapped."""
    parts = list(module.modules())
    pools = {one.global_pool for one in parts if isinstance(getattr(one, "global_pool", None), str)}
    grids: list[Any] = [getattr(one, "grid_size", None) for one in parts]
    usual = (nn.GELU, GELU, nn.MultiheadAttention)
    activations = [one for one in parts if "activation" in type(one).__module__ and not isinstance(one, usual)]
    return (
        pools <= {"token"}
        and all(len(set(sides)) == 1 for sides in grids if isinstance(sides, tuple))
        and all(one.eps == 1e-6 for one in parts if isinstance(one, nn.LayerNorm))
        and not activations
        and all(one.approximate == "none" for one in parts if isinstance(one, nn.GELU))
        and not any(isinstance(one, ResPostBlock) for one in parts)
    )
