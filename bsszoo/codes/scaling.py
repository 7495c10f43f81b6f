"""The uniformly rescaled network: the control that every search under a budget is compared with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bsszoo.codes.code import FAMILY_DEFAULT, Code
from bsszoo.codes.detector import DetectorHead, network_cost
from bsszoo.codes.families import FIELDS, family_of
from bsszoo.codes.space import scaled_stage2

#: Scales are multiples of 1 / this.
_STEPS = 1000
#: Below this the smallest stages are a few channels wide and rounding decides the network.
MIN_SCALE = 0.1
MAX_SCALE = 4.0


def uniform_code(code: Code, scale: float) -> Code:
    """The code with every width ``scale`` times as large, depths and expansions kept.

    Widths go to the nearest multiple of 4 (of 8 for ResNets, of their rescaled group width for RegNets), the stem to
    one of 8 and stage 2 up to one of 4: at 0.6 the original MobileNetV2 becomes Table 4's uniformly rescaled row, stem
    16 and stage 2 at 12 channels included.
    """
    if scale == 1:
        return code
    family = family_of(code.family)
    follows = family.stem_width is None and code.stem_width == code.widths[0]
    thirds = code.thirds or (0,) * len(code.widths)
    stages = [family.rescaled(c, t, scale) for c, t in zip(code.widths, thirds, strict=True)]
    inner: dict[str, Any] = {FIELDS[family.letter]: tuple(t for _, t in stages)} if family.letter else {}
    return replace(
        code,
        widths=tuple(c for c, _ in stages),
        **inner,
        stem_width=FAMILY_DEFAULT if follows else family.rescaled_stem(code.stem_width, scale),
        stage2_width=scaled_stage2(code.stage2_width, scale) if family.stage2 else FAMILY_DEFAULT,
    )


def fit_scale(code: Code, macs: int, params: int | None = None, head: DetectorHead | None = None) -> float | None:
    """The largest scale, in steps of 0.001, at which the uniformly rescaled code keeps the limits.

    At most ``macs`` MACs and, when given, ``params`` parameters. None when even ``MIN_SCALE`` has more; at most
    ``MAX_SCALE``. With ``head`` the limits are on the detector that has the code as its backbone. Where every width
    grows with the scale, and the costs with every width, bisection finds it; RegNets' costs may fall where their group
    width grows, so all scales up to a quarter beyond are looked at.
    """

    def keeps(step: int) -> bool:
        cost = network_cost(uniform_code(code, step / _STEPS), head)
        return cost.macs <= macs and (params is None or cost.params <= params)

    low, high = round(MIN_SCALE * _STEPS), round(MAX_SCALE * _STEPS)
    if not keeps(low):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        if keeps(middle):
            low = middle
        else:
            high = middle - 1
    if not family_of(code.family).grows_with_scale:
        most = min(round(MAX_SCALE * _STEPS), round(1.25 * low) + 1)
        low = next((step for step in range(most, low, -1) if keeps(step)), low)
    return low / _STEPS
