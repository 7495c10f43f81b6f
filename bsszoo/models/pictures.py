"""The input that a classifier takes for evaluation, as timm prepares it."""

from __future__ import annotations

from typing import Any

from timm.data import resolve_data_config
from torch import nn


def input_config(network: nn.Module) -> dict[str, Any]:
    """timm's evaluation input of a network (size, mean, deviation, crop), for the channels that it takes."""
    made: Any = network
    size = made.default_cfg["input_size"][1:]
    config: dict[str, Any] = resolve_data_config({"input_size": (made.in_chans, *size)}, model=made)
    for key in ("mean", "std"):
        if len(config[key]) != made.in_chans:  # of three channels, where the network was built for others
            config[key] = (sum(config[key]) / len(config[key]),) * made.in_chans
    return config
