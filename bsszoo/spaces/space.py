"""``Space``: the codes within ranges of their entries (the paper's Lambda, section B.2.2), and grids scaled from it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from bsszoo.codes.code import FAMILY_DEFAULT, MAX_WIDTH, MOST, Code, entries_of, plain_number
from bsszoo.codes.cost import Cost, code_cost
from bsszoo.codes.detector import DetectorHead, network_cost
from bsszoo.codes.families import FIELDS, family_of
from bsszoo.codes.families.base import scaled
from bsszoo.errors import CodeError, SpaceError, close_matches, formatted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


#: What widths of subnetworks are multiples of, by default [channels]: what devices compute without waste.
DIVISOR: Final = 8
#: How many times as wide and deep as the network's a stage may be, where a search may grow it in parts.
GROWN: Final = 1.5


class Parameters(Protocol):
    """What has an Optuna trial's parameters by their names."""

    @property
    def params(self) -> Mapping[str, Any]:
        """Their values."""
        ...


@dataclass(frozen=True, slots=True)
class Space:
    """All codes whose entries are taken from lists of values, each independently of the others.

    Args:
        family: The family's name.
        widths: Allowed ``C_i`` of each stage, in rising order.
        depths: Allowed ``L_i`` of each stage.
        thirds: Allowed third entries: expansion factors ``T_i``, group widths ``G_i``, or for ResNet-50 the ratios
            ``B_i / C_i`` as fractions; empty for ResNet-18. Of subnetworks inner widths ``B_i``. A ResNeXt's group
            widths are no axis: they are the base's, or else the family's.
        scale: The factor its grid was scaled by; 1 for section B.2.2's.
        stem_width, stage2_width, stage2_depth, image_size, stride_in, head_width: The fixed parts that its codes share.
        head: The detector's head that its codes are backbones of; their costs are then the detector's.
        base: The network whose subnetworks they are. Where the first block of a stage has another inner width than the
            others in it, its ``E_i`` is the same share of it as ``B_i`` is of theirs.
        divisor: What shares of widths are rounded to multiples of [channels].
        grow: How much wider and deeper than ``base`` each stage may be; 1 for subnetworks of it.
        num_classes, in_chans: Outputs and input channels of the networks whose costs are counted.

    ``Space.of(family)`` gives section B.2.2's ranges, ``.scaled(s)`` the grid for a smaller budget,
    ``Space.subnetworks(code)`` what is left of a network when channels and blocks are removed, and
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
    base: Code | None = None
    divisor: int = DIVISOR
    grow: float = 1.0
    num_classes: int = 1000
    in_chans: int = 3
    head_width: int = FAMILY_DEFAULT

    def __post_init__(self) -> None:
        data = family_of(self.family)
        letter = self._row_form
        kinds = [("C", self.widths), ("L", self.depths)] + ([(letter, self.thirds)] if letter else [])
        for letter, axes in kinds:
            if len(axes) != data.stages:
                raise SpaceError(f"A {self.family} space takes {data.stages} ranges for {letter}; got {len(axes)}.")
            for i, axis in enumerate(axes):
                self._check_axis(f"{letter}{data.numbers[i]}", axis, i)
        if not letter and self.thirds:
            raise SpaceError(f"A {self.family} space has widths and depths only.")
        try:
            template = self.template
        except CodeError as error:
            raise SpaceError(f"A {self.family} space cannot have these fixed parts: {error}") from None
        for part in ("stem_width", "stage2_width", "stage2_depth", "image_size", "head_width"):
            if part != "stem_width" or data.stem_width is not None:
                object.__setattr__(self, part, getattr(template, part))
            elif self.stem_width != FAMILY_DEFAULT and self.base is None:
                raise SpaceError(f"A {self.family} space has no stem_width: its codes' stems follow C2.")

    def _check_axis(self, name: str, axis: tuple[Any, ...], stage: int) -> None:
        data = family_of(self.family)
        if not axis:
            raise SpaceError(f"The range of {name} is empty.")
        if list(axis) != sorted(set(axis)):
            raise SpaceError(f"The range of {name} is {_values(axis)}; it takes distinct values in rising order.")
        ratio = name[0] == data.letter[:1] and self.shares_width
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
        if name[0] == "B" and (group := dict(enumerate(self.group_widths)).get(stage)):
            for width, share in itertools.product(self.widths[stage] if ratio else (1,), axis):
                if share * width % group:
                    raise SpaceError(
                        f"{name} would be {share * width}, which the group width {group} does not divide: a "
                        f"bottleneck is made of whole groups. Change {f'C{name[1:]} or the ratio' if ratio else name}."
                    )

    # -- making one ------------------------------------------------------------------------------------------

    @classmethod
    def subnetworks(
        cls,
        base: Code,
        *,
        divisor: int = DIVISOR,
        grow: float = 1.0,
        num_classes: int = 1000,
        in_chans: int = 3,
        head: DetectorHead | None = None,
    ) -> Space:
        """The networks that are left of one when channels and blocks are removed, itself among them.

        Widths and inner widths are multiples of ``divisor`` from an eighth of the network's on: of 4 or 2 where a stage
        has fewer than 64 or 32 channels, of more where it is wide, so that there are at most 16. Group widths stay, and
        so do the fixed parts. With ``grow`` above 1 stages may also be so many times as wide and deep as the network's.

        Raises:
            SpaceError: A stage of the network has no expansion, so that its blocks have no inner width.

        Example:
            >>> space = Space.subnetworks(Code.parse("resnet18_c24-48-96-192_l2-2-2-2"))
            >>> space.widths[0], space.depths[0]
            ((4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24), (1, 2))
        """
        _check_divisor(divisor)
        family = family_of(base.family)
        form = family.forms[-1]
        if "E" in form and 1 in base.expansions and not family.always_expands:
            raise SpaceError(
                f"{base} has a stage with no expansion (T = 1), whose blocks have no inner width to choose: its "
                "subnetworks are not searched."
            )
        if not isinstance(grow, (int, float)) or isinstance(grow, bool) or not 1 <= grow <= MAX_SCALE:
            raise SpaceError(f"grow is {formatted(grow)}; it takes a factor from 1 to {MAX_SCALE:g}.")
        entries = entries_of(base, form)
        n = family.stages
        groups = entries[2 * n : 3 * n] if family.whole_groups else (1,) * n
        inner = [
            (t,)
            if family.whole_groups
            else _subwidths(t, divisor, grow, base.group_widths[i] if base.group_widths else 1)
            for i, t in enumerate(entries[2 * n : 3 * n] if form else ())
        ]
        return cls(
            family.name,
            tuple(_subwidths(c, divisor, grow, g) for c, g in zip(base.widths, groups, strict=True)),
            tuple(tuple(range(1, math.ceil(grow * depth) + 1)) for depth in base.depths),
            tuple(tuple(Fraction(t) for t in axis) for axis in inner),
            stem_width=FAMILY_DEFAULT if _follows(base) else base.stem_width,
            stage2_width=base.stage2_width,
            stage2_depth=base.stage2_depth,
            image_size=base.image_size,
            stride_in=base.stride_in,
            head_width=base.head_width,
            head=head,
            base=base,
            divisor=divisor,
            grow=float(grow),
            num_classes=num_classes,
            in_chans=in_chans,
        )

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

    def scaled(self, scale: float, divisor: int | None = None) -> Space:
        """Section B.2.2's grid for networks ``scale`` times as wide; depths, ratios and expansions stay.

        Each stage keeps its multiples and scales their step: MobileNetV2's steps (4, 8, 16, 24, 40, 80) become
        (2, 5, 10, 14, 24, 48) at 0.6, the grid on which Table 4's codes lie. ResNet steps stay multiples of 8.
        The stem goes to the nearest multiple of 8 and stage 2 up to a multiple of 4: (16, 12) at 0.6, which the
        paper leaves open and its Table 4 figures require. Ranges changed by ``replace`` are lost.

        With ``divisor`` the steps are multiples of it [channels], as devices like them: of 4 or 2 where the published
        network's stage is narrower than 64 or 32 channels at that scale (8 or 4 of these multiples). Where inner widths
        are shares of a stage's width they are such multiples as well.

        Example:
            >>> grid = Space.of("mobilenetv2")
            >>> [[axis[0] for axis in grid.scaled(0.604, divisor).widths] for divisor in (None, 8)]
            [[6, 10, 20, 28, 48, 96], [6, 8, 16, 32, 48, 96]]
        """
        if not isinstance(scale, (int, float)) or isinstance(scale, bool) or not 0 < scale <= 16:
            raise SpaceError(f"scale is {formatted(scale)}; allowed is a number above 0 and up to 16.")
        data = family_of(self.family)
        multiples = list(data.grid_divisors)
        if divisor is not None:
            _check_divisor(divisor)
            n, shares = data.stages, math.lcm(*(share.denominator for share in data.third_values))
            for i, width in enumerate(data.original[:n]):
                wanted = [_finest(round(scale * width), divisor)]
                if data.shares_width:
                    wanted.append(shares * _finest(round(scale * data.original[2 * n + i]), divisor))
                multiples[i] = math.lcm(multiples[i], *wanted)
        steps = [scaled(scale * r.step, m) for r, m in zip(data.width_ranges, multiples, strict=True)]
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
            head_width=self.head_width,
            head=self.head,
        )

    def replace(self, entries: Mapping[str, Iterable[Any]] | None = None, **ranges: Iterable[Any]) -> Space:
        """This space with other ranges for some entries, e.g. ``replace(C3=[16, 24], L3=range(1, 4))``.

        ``B2`` .. ``B5`` take ratios of the stage's width (``Fraction(1, 4)``, or ``0.25``). A mapping takes
        names held in variables. Raises ``SpaceError`` for an unknown entry or an impossible range.
        """
        data = family_of(self.family)
        axes = dict(zip(self.entry_names, self.axes, strict=True))
        for name, values in {**(entries or {}), **ranges}.items():
            if name not in axes:
                raise SpaceError(f"A {self.family} code has no entry {name!r}.{close_matches(name, axes)}")
            try:
                axis = tuple(sorted({Fraction(v) for v in values}))
            except (TypeError, ValueError, ArithmeticError):
                raise SpaceError(f"The range of {name} is {formatted(values)}; it takes a list of numbers.") from None
            axes[name] = axis if name[0] not in "CL" else tuple(int(v) if v.denominator == 1 else v for v in axis)
        n, every = data.stages, tuple(axes.values())
        return replace(self, widths=every[:n], depths=every[n : 2 * n], thirds=every[2 * n :])

    def cost(self, code: Code) -> Cost:
        """The cost of a code's network: of the classifier, or of the detector where the space has a ``head``."""
        if self.head is not None:
            return network_cost(code, self.head)
        return code_cost(code, num_classes=self.num_classes, in_chans=self.in_chans)

    # -- what it holds ---------------------------------------------------------------------------------------

    @property
    def counted(self) -> dict[str, Any]:
        """The arguments of ``subnetworks`` beside the network: JSON-ready."""
        grown = {} if self.grow == 1 else {"grow": self.grow}
        return {"divisor": self.divisor, "num_classes": self.num_classes, "in_chans": self.in_chans, **grown}

    @property
    def described(self) -> str:
        """Where its codes are, in words."""
        if self.base is None:
            return f"on the grid at scale {self.scale:g}"
        return "among the network's subnetworks" + ("" if self.grow == 1 else " and networks grown in parts")

    @property
    def entry_names(self) -> tuple[str, ...]:
        """The paper's names of the entries, in the order of a row of codes."""
        return family_of(self.family).names_of(self._row_form)

    @property
    def _row_form(self) -> str:
        """The letter of the third entries in a row: ``E`` follows from ``B``, and a ResNeXt's ``G`` is no axis."""
        return self.form[:1]

    def row(self, code: Code) -> tuple[int, ...]:
        """A code's entries as a row of codes has them, also of a code outside."""
        return entries_of(code, self._row_form)

    @property
    def form(self) -> str:
        """The letters of the third entries of its codes, of which a row has the first."""
        family = family_of(self.family)
        return family.letter if self.base is None else family.forms[-1]

    @property
    def group_widths(self) -> tuple[int, ...]:
        """The group widths that all its codes share; empty where they have none, or where they are an axis."""
        if self.form.find("G") < 1:
            return ()
        return family_of(self.family).fixed_groups if self.base is None else self.base.group_widths

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
        """A code of this space, for the fixed parts that all its codes share: the smallest one, or ``base``."""
        return self.smallest if self.base is None else self.base

    @property
    def bounds(self) -> tuple[tuple[int, int], ...]:
        """The least and the largest value of each entry (of B as a width, not as a ratio)."""
        pairs = [(axis[0], axis[-1]) for axis in self.widths + self.depths]
        for i, axis in enumerate(self.thirds):
            least, most = (self.widths[i][0], self.widths[i][-1]) if self.shares_width else (1, 1)
            pairs.append((int(axis[0] * least), int(axis[-1] * most)))
        return tuple(pairs)

    def code(self, row: Iterable[Any], *, ratios: bool = False) -> Code:
        """The code with these entries and the space's fixed parts; ``ratios`` says that B are shares of C."""
        values = list(row)
        n = len(self.widths)
        if ratios and self.shares_width:
            values[2 * n :] = [share * width for share, width in zip(values[2 * n :], values[:n], strict=True)]
        plain = [int(v) for v in values]
        if "E" in self.form:
            plain += [self._first_inner(i, b) for i, b in enumerate(plain[2 * n :])]
        plain += self.group_widths
        return Code.from_entries(
            self.family,
            plain,
            form=self.form,
            stem_width=self.stem_width,
            stage2_width=self.stage2_width,
            stage2_depth=self.stage2_depth,
            image_size=self.image_size,
            stride_in=self.stride_in,
            head_width=self.head_width,
        )

    def code_of(self, trial: Mapping[str, Any] | Parameters) -> Code:
        """The code of an Optuna trial, with the space's fixed parts: from ``trial.params`` to a network in one call.

        ``Code.from_entries(family, trial.params.values())`` has the family's fixed parts instead (stem, stage 2, image
        size), so it is another network wherever the space has its own: every scaled space does, and most subnetworks'.

        Args:
            trial: Entries by their names, as ``trial.params`` and ``study.best_params``; or what holds them as
                ``params``: a trial, finished or not, or one that ``AutoBSSSampler.recommend`` returned. Parameters that
                are no entries, such as a learning rate of the same study, are passed over.

        Raises:
            SpaceError: An entry is missing or no whole number, or the space does not hold the code: the trial is of
                another space.

        Example:
            >>> space = Space.of("mobilenetv2").scaled(0.6)
            >>> params = dict(zip(space.entry_names, space.row(space.smallest)))
            >>> space.code_of(params) == space.smallest, Code.from_entries("mobilenetv2", params.values()).stem_width
            (True, 32)
        """
        params = trial if isinstance(trial, Mapping) else getattr(trial, "params", None)
        if not isinstance(params, Mapping):
            raise SpaceError(
                f"A code is read from a trial's params, by the names of its entries; got {formatted(trial)}. "
                "Space.code takes a row."
            )
        row = []
        for name in self.entry_names:
            if name not in params:
                raise SpaceError(
                    f"These params have no {name}: {formatted(dict(params), 200)}. A code of this space has "
                    f"{', '.join(self.entry_names)}."
                )
            value = plain_number(params[name])
            if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value // 1:
                raise SpaceError(f"{name} is {formatted(value)}; it takes a whole number.")
            row.append(int(value))
        try:
            code = self.code(row)
        except CodeError as error:
            raise SpaceError(f"These params are no code of this space: {error}") from None
        if reasons := self.reasons(code):
            raise SpaceError(f"{code} is not in this space: {'; '.join(reasons)}.")
        return code

    @property
    def shares_width(self) -> bool:
        """Whether its third entries are held as shares of their stage's width."""
        return self.base is None and family_of(self.family).shares_width

    @property
    def loses_projection(self) -> bool:
        """Whether a first stage just as wide as the stem needs no projection, and costs less for it."""
        family = family_of(self.family)
        return family.loses_projection or (family.stem_width is None and self.stem_width != FAMILY_DEFAULT)

    def _first_inner(self, stage: int, inner: int) -> int:
        """``E`` of a stage whose other blocks have this ``B``."""
        assert self.base is not None
        n = len(self.widths)
        whole = entries_of(self.base, self.form)
        most, other = whole[3 * n + stage], whole[2 * n + stage]
        step = _finest(most, self.divisor)
        return most if inner == other else min(most, scaled(most * inner / other, step))

    def columns(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The entries of codes [n, d] for the layer list, with the ``E`` or ``G`` that no row has: [n, d or more]."""
        import numpy as np

        if groups := self.group_widths:
            shared = np.broadcast_to(np.array(groups, dtype=np.int64), (len(rows), len(groups)))
            return np.concatenate([rows, shared], axis=1)
        if "E" not in self.form:
            return rows
        n = len(self.widths)
        firsts = []
        for i in range(n):
            values, where = np.unique(rows[:, 2 * n + i], return_inverse=True)
            firsts.append(np.array([self._first_inner(i, int(b)) for b in values], dtype=np.int64)[where.reshape(-1)])
        return np.concatenate([rows, np.stack(firsts, axis=1)], axis=1)

    def __contains__(self, code: object) -> bool:
        return isinstance(code, Code) and not self.reasons(code)

    def reasons(self, code: Code) -> tuple[str, ...]:
        """Why a code is outside, one sentence for each entry or fixed part; empty when it is inside."""
        if code.family != self.family:
            return (f"it is a {code.family} code, not a {self.family} code",)
        n = len(self.widths)
        out = []
        if self.base is None and self.form != code.form:
            return ("its blocks have inner widths of their own, which no code of this space has",)
        entries = entries_of(code, self.form)
        for i, (name, value) in enumerate(zip(self.entry_names, entries, strict=False)):
            if "E" in self.form and i >= 2 * n:
                break
            if i < 2 * n:
                allowed: tuple[Any, ...] = (self.widths + self.depths)[i]
            else:
                width = code.widths[i - 2 * n] if self.shares_width else 1
                allowed = tuple(share * width for share in self.thirds[i - 2 * n])
            if value not in allowed:
                out.append(f"{name} is {value}; allowed are {_values(allowed)}")
        if code.group_widths and self.group_widths not in ((), code.group_widths):
            out.append(
                f"group widths are {_values(code.group_widths)}; they are {_values(self.group_widths)} in this space"
            )
        firsts = entries[3 * n :] if "E" in self.form else ()
        for i, (inner, first) in enumerate(zip(entries[2 * n : 3 * n], firsts, strict=False)):
            pairs = [(int(b), self._first_inner(i, int(b))) for b in self.thirds[i]]
            # A stage of one block has no other inner width.
            if not any(first == e and (inner == b or code.depths[i] == 1) for b, e in pairs):
                number = self.entry_names[i][1:]
                out.append(f"B{number} and E{number} are {inner} and {first}; allowed are {_values(pairs)}")
        template = self.template
        for part in ("stem_width", "stage2_width", "stage2_depth", "image_size", "stride_in", "head_width"):
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
            if j >= 2 * stages and self.shares_width:
                bottom = np.array([s.denominator for s in shares], dtype=np.int64)[indices[:, j]]
                out[:, j] = out[:, j] * out[:, j - 2 * stages] // bottom
        return out


def _check_divisor(divisor: object) -> None:
    if not isinstance(divisor, int) or isinstance(divisor, bool) or not 1 <= divisor <= MAX_WIDTH:
        raise SpaceError(f"divisor is {formatted(divisor)}; it takes a number of channels from 1.")


def _finest(width: int, divisor: int) -> int:
    """A divisor of which a width has at least 8 multiples, where it may be halved down to 2."""
    while divisor > 2 and width < 8 * divisor:
        divisor = max(2, divisor // 2)
    return divisor


def _subwidths(width: int, divisor: int, grow: float = 1.0, group: int = 1) -> tuple[int, ...]:
    """Up to 16 widths of a subnetwork's stage, from an eighth of its own on, multiples of a group width; and larger."""
    step = math.lcm(_finest(width, divisor), group)
    step *= max(1, math.ceil(width / (16 * step)))
    least = step * max(1, math.ceil(width / (8 * step)))
    most = min(MAX_WIDTH, math.floor(grow * width))
    return (*range(least, width, step), width, *range(width // step * step + step, most + 1, step))


def _follows(code: Code) -> bool:
    """Whether the stem is as wide as the first stage because the family's is."""
    return family_of(code.family).stem_width is None and code.stem_width == code.widths[0]


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
    if code.form == family.letter:
        entries = family.rescaled_entries(code, scale)
    else:
        entries = {
            field: tuple(scaled(scale * width, family.uniform_divisor) for width in getattr(code, field))
            for field in (FIELDS["C"], *(FIELDS[letter] for letter in code.form))
        }
    return replace(
        code,
        **cast("dict[str, Any]", entries),
        stem_width=FAMILY_DEFAULT if _follows(code) else family.rescaled_stem(code.stem_width, scale),
        stage2_width=scaled_stage2(code.stage2_width, scale) if family.stage2 else FAMILY_DEFAULT,
    )


def uniform_codes(code: Code, most: float = 1.0) -> tuple[Code, ...]:
    """The different uniformly rescaled codes from a scale down to ``MIN_SCALE``, the widest first."""
    steps = range(round(most * _STEPS), round(MIN_SCALE * _STEPS) - 1, -1)
    return tuple(dict.fromkeys(uniform_code(code, step / _STEPS) for step in steps))


def uniform_subnetwork(space: Space, scale: float) -> Code:
    """The code of a space with every width and inner width ``scale`` times as large, to the finest multiples.

    Depths, group widths and the space's fixed parts stay.
    """
    base = space.base
    assert base is not None
    family, n = family_of(space.family), len(space.widths)
    entries = entries_of(base, space.form)

    def narrower(width: int, multiple: int) -> int:
        step = math.lcm(_finest(width, space.divisor), multiple)
        most = width if scale <= 1 else math.floor(space.grow * width / step) * step
        return min(max(width, most), scaled(scale * width, step))

    groups = entries[2 * n : 3 * n] if family.whole_groups else (1,) * n
    widths = [narrower(c, g) for c, g in zip(base.widths, groups, strict=True)]
    thirds = entries[2 * n : 3 * n]
    inner_groups = base.group_widths if base.group_widths and not family.whole_groups else (1,) * len(thirds)
    inner = thirds if family.whole_groups else tuple(map(narrower, thirds, inner_groups))
    return space.code([*widths, *base.depths, *inner])


def uniform_subnetworks(space: Space) -> tuple[Code, ...]:
    """The different uniformly rescaled codes of a space of subnetworks, the widest first."""
    steps = range(round(space.grow * _STEPS), round(_STEPS * MIN_SCALE / 4), -1)
    return tuple(dict.fromkeys(uniform_subnetwork(space, step / _STEPS) for step in steps))


def fit_subnetwork(
    space: Space, macs: int, params: int | None = None, keeps: Callable[[Code], bool] | None = None
) -> Code | None:
    """The largest uniformly narrower subnetwork with at most so many MACs and parameters; None without one.

    ``keeps`` is asked of those that keep both.
    """
    for code in uniform_subnetworks(space):
        cost = space.cost(code)
        if cost.macs <= macs and (params is None or cost.params <= params) and (keeps is None or keeps(code)):
            return code
    return None


def fit_scale(code: Code, macs: int, params: int | None = None, head: DetectorHead | None = None) -> float | None:
    """The largest scale, in steps of 0.001, at which the uniformly rescaled code keeps the limits.

    At most ``macs`` MACs and, unless None, ``params`` parameters. None when even ``MIN_SCALE`` has more; at most
    ``MAX_SCALE``. With ``head`` the limits are on the detector that has the code as its backbone. Where every width
    grows with the scale, and the costs with every width, bisection finds it; RegNets' costs may fall where their group
    width grows, and GhostNets' where a shortcut becomes the identity, so of these all scales up to a quarter beyond are
    looked at.
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
