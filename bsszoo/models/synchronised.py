"""One batch normalisation over all processes of a training, for every network of ours."""

from __future__ import annotations

from timm.layers import convert_sync_batchnorm
from torch import nn


def synchronised(network: nn.Module) -> nn.Module:
    """The network with ``SyncBatchNorm`` for every batch normalisation, weights and outputs as before.

    By timm: torch's own conversion drops the activations that networks of MBConv blocks hold in their normalisation.
    """
    made: nn.Module = convert_sync_batchnorm(network)
    return made
