"""``Placement``: how a block of a code sits in a built network."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Placement:
    """How one block sits in the built network, where that differs from its place in the code.

    ``stride`` is 1 where the output stride turned the code's stride into dilation; ``first_dilation`` is the dilation
    up to the convolution that has the stride, ``dilation`` that of all after it. ``drop_path`` is a probability.
    """

    stride: int
    dilation: int
    first_dilation: int
    drop_path: float
