"""``Space``: the codes within ranges of their entries (the paper's Lambda, section B.2.2), and grids scaled from it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from bsszoo.codes.code import FAMILY_DEFAULT, MOST, Code
from bsszoo.codes.cost import Cost
from bsszoo.codes.detector import DetectorHead, network_cost
from bsszoo.codes.families import FIELDS, family_of
from bsszoo.codes.families.base import scaled
from bsszoo.errors import CodeError, SpaceError, close_matches, formatted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Space:
    """All codes whose entries are taken from lists of values, each independently of the others.

    Args:
        family: The family's name.
        widths: Allowed ``C_i`` of each stage, in rising order.
        depths: Allowed ``L_i`` of each stage.
        thirds: Allowed third entries: expansion factors ``T_i``, group widths ``G_i``, or for ResNet-50 the ratios
            ``B_i / C_i`` as fractions; empty for ResNet-18.
        scale: The factor its grid was scaled by; 1 for section B.2.2's.
        stem_width, stage2_width, stage2_depth, image_size, stride_in: The fixed parts that its codes share.
        head: The detector's head that its codes are backbones of; their costs are then the detector's.

    ``Space.of(family)`` gives section B.2.2's ranges, ``.scaled(s)`` the grid for a smaller budget and
    ``.replace(C3=[..], L4=range(1, 4))`` a custom one.

    Raises:
        SpaceError: A range is empty, not rising, out of bounds or gives a fractional bottleneck.

    Example:
        >>> space = Space.of("mobilenetv2")
        >>> space.size
        195165573120
        >>> space.reasons(Code.parse("{24,32,60,96,160,320,9,3,4,3,3,1,6,6,6,6,6,6}", family="mobilenetv2"))
        ('C5 is 60; allowed are 32, 48, 64, .., 128', 'L3 is 9; allowed are 1, 2, 3, .., 5')
    """

    family: str
    widths: tuple[tuple[int, ...], ...]
    depths: tuple[tuple[int, ...], ...]
    thirds: tuple[tuple[Fraction, ...], ...] = ()
    scale: float = 1.0
    stem_width: int = FAMILY_DEFAULT
    stage2_width: int = FAMILY_DEFAULT
    stage2_depth: int = FAMILY_DEFAULT
    image_size: int = FAMILY_DEFAULT
    stride_in: Any = "3x3"
    head: DetectorHead | None = None

    def __post_init__(self) -> None:
        data = family_of(self.family)
        kinds = [("C", self.widths), ("L", self.depths)] + ([(data.letter, self.thirds)] if data.letter else [])
        for letter, axes in kinds:
            if len(axes) != data.stages:
                raise SpaceError(f"A {self.family} space takes {data.stages} ranges for {letter}; got {len(axes)}.")
            for i, axis in enumerate(axes):
                self._check_axis(f"{letter}{data.numbers[i]}", axis, i)
        if not data.letter and self.thirds:
            raise SpaceError(f"A {self.family} space has widths and depths only.")
        try:
            template = self.template
        except CodeError as error:
            raise SpaceError(f"A {self.family} space cannot have these fixed parts: {error}") from None
        for part in ("stem_width", "stage2_width", "stage2_depth", "image_size"):
            if part != "stem_width" or data.stem_width is not None:
                object.__setattr__(self, part, getattr(template, part))
            elif self.stem_width != FAMILY_DEFAULT:
                raise SpaceError("A resnet18 space has no stem_width: its codes' stems follow C2.")

    def _check_axis(self, name: str, axis: tuple[Any, ...], stage: int) -> None:
        data = family_of(self.family)
        if not axis:
            raise SpaceError(f"The range of {name} is empty.")
        if list(axis) != sorted(set(axis)):
            raise SpaceError(f"The range of {name} is {_values(axis)}; it takes distinct values in rising order.")
        ratio = name[0] == data.letter and data.shares_width
        if not ratio and not all(Fraction(v).denominator == 1 and v >= 1 for v in axis):
            raise SpaceError(f"The range of {name} is {_values(axis)}; it takes integers from 1.")
        if axis[-1] > MOST[name[0]]:
            raise SpaceError(f"The range of {name} is {_values(axis)}; at most {MOST[name[0]]} is allowed.")
        if name[0] == data.letter and data.whole_groups:
            for width, group in itertools.product(self.widths[stage], axis):
                if width % group:
                    raise SpaceError(
                        f"{name} may be {group}, which does not divide a width of {width}: a stage is "
                        f"made of whole groups. Change C{name[1:]} or {name}."
                    )
        if ratio:
            for width in self.widths[stage]:
                for share in axis:
                    if share <= 0 or (share * width).denominator != 1:
                        raise SpaceError(
                            f"{name} would be {share} x {width} = {float(share * width):g}; a "
                            f"bottleneck is a positive integer: change C{name[1:]} or the ratio."
                        )

    # -- making one ------------------------------------------------------------------------------------------

    @classmethod
    def of(cls, family: str) -> Space:
        """The ranges of section B.2.2 for a family."""
        return cls._on(family, [r.step for r in family_of(family).width_ranges])

    @classmethod
    def _on(cls, family: str, steps: Sequence[int], **parts: Any) -> Space:
        """The family's ranges with widths in multiples of these steps."""
        data = family_of(family)
        return cls(
            family,
            tuple(r.values(step) for r, step in zip(data.width_ranges, steps, strict=True)),
            tuple(tuple(range(1, most + 1)) for most in data.max_depths),
            data.thirds_at(steps),
            **parts,
        )

    def scaled(self, scale: float) -> Space:
        """Section B.2.2's grid for networks ``scale`` times as wide; depths, ratios and expansions stay.

        Each stage keeps its multiples and scales their step: MobileNetV2's steps (4, 8, 16, 24, 40, 80) become
        (2, 5, 10, 14, 24, 48) at 0.6, the grid on which Table 4's codes lie. ResNet steps stay multiples of 8.
        The stem goes to the nearest multiple of 8 and stage 2 up to a multiple of 4: (16, 12) at 0.6, which the
        paper leaves open and its Table 4 figures require. Ranges changed by ``replace`` are lost.
        """
        if not isinstance(scale, (int, float)) or isinstance(scale, bool) or not 0 < scale <= 16:
            raise SpaceError(f"scale is {formatted(scale)}; allowed is a number above 0 and up to 16.")
        data = family_of(self.family)
        steps = [scaled(scale * r.step, data.grid_divisor) for r in data.width_ranges]
        stem, stage2 = scaled_fixed_widths(self.family, scale)
        return Space._on(
            self.family,
            steps,
            scale=float(scale),
            image_size=self.image_size,
            stage2_depth=self.stage2_depth,
            stride_in=self.stride_in,
            stem_width=stem,
            stage2_width=stage2,
            head=self.head,
        )

    def replace(self, entries: Mapping[str, Iterable[Any]] | None = None, **ranges: Iterable[Any]) -> Space:
        """This space with other ranges for some entries, e.g. ``replace(C3=[16, 24], L3=range(1, 4))``.

        ``B2`` .. ``B5`` take ratios of the stage's width (``Fraction(1, 4)``, or ``0.25``). A mapping takes
        names held in variables. Raises ``SpaceError`` for an unknown entry or an impossible range.
        """
        data = family_of(self.family)
        axes = dict(zip(data.entry_names, self.axes, strict=True))
        for name, values in {**(entries or {}), **ranges}.items():
            if name not in axes:
                raise SpaceError(f"A {self.family} code has no entry {name!r}.{close_matches(name, axes)}")
            try:
                axis = tuple(sorted({Fraction(v) for v in values}))
            except (TypeError, ValueError, ArithmeticError):
                raise SpaceError(f"The range of {name} is {formatted(values)}; it takes a list of numbers.") from None
            axes[name] = axis if name[0] == data.letter else tuple(int(v) if v.denominator == 1 else v for v in axis)
        n, every = data.stages, tuple(axes.values())
        return replace(self, widths=every[:n], depths=every[n : 2 * n], thirds=every[2 * n :])

    def cost(self, code: Code) -> Cost:
        """The cost of a code's network: of the classifier, or of the detector where the space has a ``head``."""
        return network_cost(code, self.head)

    # -- what it holds ---------------------------------------------------------------------------------------

    @property
    def entry_names(self) -> tuple[str, ...]:
        """The paper's names of the entries, in the order of a row of codes."""
        return family_of(self.family).entry_names

    @property
    def size(self) -> int:
        """The number of codes."""
        return math.prod(len(axis) for axis in self.axes)

    @property
    def smallest(self) -> Code:
        """The code with every entry at its least; in section B.2.2's and scaled spaces none has fewer MACs.

        In a ResNet-50 space with a custom C2 one may: a block as wide as the stem has no projection shortcut.
        """
        return self.code([axis[0] for axis in self.axes], ratios=True)

    @property
    def largest(self) -> Code:
        """The code with every entry at its most."""
        return self.code([axis[-1] for axis in self.axes], ratios=True)

    @property
    def template(self) -> Code:
        """A code of this space, for the fixed parts that all its codes share (the smallest one)."""
        return self.smallest

    @property
    def bounds(self) -> tuple[tuple[int, int], ...]:
        """The least and the largest value of each entry (of B as a width, not as a ratio)."""
        pairs = [(axis[0], axis[-1]) for axis in self.widths + self.depths]
        for i, axis in enumerate(self.thirds):
            least, most = (self.widths[i][0], self.widths[i][-1]) if self._has_ratios else (1, 1)
            pairs.append((int(axis[0] * least), int(axis[-1] * most)))
        return tuple(pairs)

    def code(self, row: Iterable[Any], *, ratios: bool = False) -> Code:
        """The code with these entries and the space's fixed parts; ``ratios`` says that B are shares of C."""
        values = list(row)
        n = len(self.widths)
        if ratios and self._has_ratios:
            values[2 * n :] = [share * width for share, width in zip(values[2 * n :], values[:n], strict=True)]
        return Code.from_entries(
            self.family,
            [int(v) for v in values],
            stem_width=self.stem_width,
            stage2_width=self.stage2_width,
            stage2_depth=self.stage2_depth,
            image_size=self.image_size,
            stride_in=self.stride_in,
        )

    @property
    def _has_ratios(self) -> bool:
        return family_of(self.family).shares_width

    def __contains__(self, code: object) -> bool:
        return isinstance(code, Code) and not self.reasons(code)

    def reasons(self, code: Code) -> tuple[str, ...]:
        """Why a code is outside, one sentence for each entry or fixed part; empty when it is inside."""
        if code.family != self.family:
            return (f"it is a {code.family} code, not a {self.family} code",)
        n = len(self.widths)
        out = []
        for i, (name, value) in enumerate(zip(self.entry_names, code.entries, strict=True)):
            if i < 2 * n:
                allowed: tuple[Any, ...] = (self.widths + self.depths)[i]
            else:
                width = code.widths[i - 2 * n] if self._has_ratios else 1
                allowed = tuple(share * width for share in self.thirds[i - 2 * n])
            if value not in allowed:
                out.append(f"{name} is {value}; allowed are {_values(allowed)}")
        template = self.template
        for part in ("stem_width", "stage2_width", "stage2_depth", "image_size", "stride_in"):
            wanted = code.widths[0] if part == "stem_width" and self.stem_width < 0 else getattr(template, part)
            if getattr(code, part) != wanted:
                out.append(f"{part} is {getattr(code, part)}; it is {wanted} in this space")
        return tuple(out)

    def sample(self, n: int, rng: np.random.Generator | int) -> NDArray[np.int64]:
        """``n`` codes drawn uniformly and independently, int64 of shape [n, d]; repeats are possible.

        ``rng`` is a seed or a numpy generator.
        """
        import numpy as np

        generator = np.random.default_rng(rng)
        return self.rows(np.stack([generator.integers(len(axis), size=n) for axis in self.axes], axis=1))

    @property
    def axes(self) -> tuple[tuple[Any, ...], ...]:
        """The allowed values of each entry, in the order of the entries; of B the ratios to C."""
        return (*self.widths, *self.depths, *self.thirds)

    def rows(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """The codes [n, d] whose entries are at these indices [n, d] of their ``axes``."""
        import numpy as np

        stages = len(self.widths)
        out = np.empty(indices.shape, dtype=np.int64)
        for j, axis in enumerate(self.axes):
            shares = [Fraction(v) for v in axis]
            out[:, j] = np.array([s.numerator for s in shares], dtype=np.int64)[indices[:, j]]
            if j >= 2 * stages and self._has_ratios:
                bottom = np.array([s.denominator for s in shares], dtype=np.int64)[indices[:, j]]
                out[:, j] = out[:, j] * out[:, j - 2 * stages] // bottom
        return out


def scaled_fixed_widths(family: str, scale: float) -> tuple[int, int]:
    """Stem and stage 2 widths of a network ``scale`` times as wide (``FAMILY_DEFAULT``, 0 where there are none).

    The simplest rule that gives the originals at 1 and (16, 12) at 0.6: see ``Space.scaled``.
    """
    data = family_of(family)
    stem = FAMILY_DEFAULT if data.stem_width is None else data.rescaled_stem(data.stem_width, scale)
    return stem, FAMILY_DEFAULT if data.stage2 is None else scaled_stage2(data.stage2[0], scale)


def scaled_stage2(width: int, scale: float) -> int:
    """A fixed stage 2 ``scale`` times as wide: up to a multiple of 4."""
    return 4 * max(1, math.ceil(scale * width / 4 - 1e-9))


def _values(axis: Iterable[Any]) -> str:
    texts = [str(v) for v in axis]
    return ", ".join(texts if len(texts) <= 4 else [*texts[:3], "..", texts[-1]])


# The uniformly rescaled network: the control that every search under a budget is compared with


#: Scales are multiples of 1 / this.
_STEPS = 1000
#: Below this the smallest stages are a few channels wide and rounding decides the network.
MIN_SCALE = 0.1
MAX_SCALE = 4.0


def uniform_code(code: Code, scale: float) -> Code:
    """The code with every width ``scale`` times as large and the same depths and expansions.

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

    At most ``macs`` MACs and, unless None, ``params`` parameters. None when even ``MIN_SCALE`` has more; at most
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
