"""``Code``: the block stacking style of one network as a frozen value, its text form and its JSON form."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

from bsszoo.codes.families import FAMILIES, FIELDS, Family, Fixed, family_of
from bsszoo.codes.layers import Layer, Stage
from bsszoo.errors import CodeError, close_matches, formatted

StrideIn = Literal["3x3", "1x1"]

#: The value of a fixed part that stands for the family's default.
FAMILY_DEFAULT: Final = -1

MAX_WIDTH: Final = 65536
MAX_DEPTH: Final = 1000
MAX_EXPANSION: Final = 64
#: The most that an entry may be, by its letter.
MOST: Final = {"C": MAX_WIDTH, "L": MAX_DEPTH, "B": MAX_WIDTH, "E": MAX_WIDTH, "T": MAX_EXPANSION, "G": MAX_WIDTH}
MAX_IMAGE_SIZE: Final = 16384
MAX_TEXT: Final = 1000

_FIXED: Final = ("stem_width", "stage2_width", "stage2_depth", "image_size", "stride_in", "head_width")
#: What a family that has not a fixed part lacks.
_PARTS: Final = {
    "stage2_width": "fixed stage 2",
    "stage2_depth": "fixed stage 2",
    "head_width": "convolution in front of its classifier",
}
_FORM: Final = "mobilenetv2_c24-40-64-96-120-240_l4-3-2-3-6-2_t3-6-6-3-6-6"
# One way only to match each text: separators that could match in two ways made long texts take for ever.
_FLAT = re.compile(r"[{\[(]?\s*(\d+(?:(?:\s*,\s*|\s+)\d+)*)(?:\s*,)?\s*[}\])]?")


@dataclass(frozen=True, slots=True)
class Code:
    """A block stacking style code (the paper's BSSC): how one network stacks its blocks.

    Args:
        family: The name of a family: a key of ``bsszoo.codes.FAMILIES``.
        widths: Output channels ``C_i`` of each searched stage; of a ViT's groups of blocks the MLPs' inner widths.
        depths: Number of blocks ``L_i`` of each stage.
        bottlenecks: Channels ``B_i`` inside the blocks of each stage: of the 3x3 convolution of a bottleneck. In the
            subnetworks of other families, of a basic block's first convolution (by default ``C_i``), or expanded
            channels in place of ``expansions``. Of ViTs the width of attention.
        expansions: Expansion factor ``T_i`` of each stage (of inverted residual blocks, GhostNets, ConvNeXts); the
            expanded width is exactly input width x ``T_i``, of ConvNeXts ``C_i`` x ``T_i``.
        group_widths: Channels ``G_i`` of each group of the 3x3 convolution of each stage (RegNets and ResNeXts), or of
            each head of its attention (ViTs).
        stem_width: Channels of the first convolution; ResNet-18's and ConvNeXts' follow ``C2``. Of ViTs also of all
            their blocks' inputs and outputs.
        stage2_width, stage2_depth: The fixed second stage of families of inverted residual blocks; 0 for others.
        head_width: Channels of the last 1x1 convolution of these families; 0 for others.
        image_size: Side of the square input [px] at which costs are counted.
        stride_in: Which convolution of a ResNet-50 block takes the stride: ``"3x3"`` (torchvision, the paper's
            ImageNet rows) or the first ``"1x1"`` (the caffe layout, the paper's detectors).

    Fixed parts default to the family's values. ``first_bottlenecks`` are the expanded channels ``E_i`` of the first
    block of each stage of an MBConv subnetwork, by default ``bottlenecks``. Two codes are equal when they build the
    same network for the same input size.

    Raises:
        CodeError: An entry is missing, not an integer or out of range; the text names the entry.
        UnknownNameError: The family does not exist.

    Example:
        >>> code = Code.parse("{24,40,64,96,120,240,4,3,2,3,6,2,3,6,6,3,6,6}", family="mobilenetv2")
        >>> str(code)
        'mobilenetv2_c24-40-64-96-120-240_l4-3-2-3-6-2_t3-6-6-3-6-6'
        >>> Code.parse(str(code)) == code
        True
    """

    family: str
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    bottlenecks: tuple[int, ...] = ()
    expansions: tuple[int, ...] = ()
    stem_width: int = FAMILY_DEFAULT
    stage2_width: int = FAMILY_DEFAULT
    stage2_depth: int = FAMILY_DEFAULT
    image_size: int = FAMILY_DEFAULT
    stride_in: StrideIn = "3x3"
    group_widths: tuple[int, ...] = ()
    first_bottlenecks: tuple[int, ...] = ()
    head_width: int = FAMILY_DEFAULT

    def __post_init__(self) -> None:
        family = family_of(self.family)
        form = family.letter if _is_empty(self.bottlenecks) else family.forms[-1]
        if family.letter and family.letter not in form and not _is_empty(getattr(self, FIELDS[family.letter])):
            raise CodeError(
                f"A {family.name} code has either {FIELDS[family.letter]} or, as a subnetwork, bottlenecks; got both."
            )
        if "E" in form and _is_empty(self.first_bottlenecks):
            object.__setattr__(self, "first_bottlenecks", self.bottlenecks)
        for letter, field in FIELDS.items():
            if letter in "CL" + form:
                self._check_list(family, form, letter, MOST[letter])
            elif not _is_empty(getattr(self, field)):
                raise CodeError(f"A {family.name} code has no {field}; it is made of {family.words_of(form)}.")
            else:
                object.__setattr__(self, field, ())
        stage2 = family.stage2 or (0, 0)
        self._fix("stem_width", family.stem_width or self.widths[0], MAX_WIDTH)
        self._fix("stage2_width", stage2[0], MAX_WIDTH)
        self._fix("stage2_depth", stage2[1], MAX_DEPTH)
        self._fix("image_size", family.image_size, MAX_IMAGE_SIZE)
        self._fix("head_width", family.head_width, MAX_WIDTH)
        if self.stride_in not in ("3x3", "1x1"):
            raise CodeError(
                f"{family.name} code: stride_in is {formatted(self.stride_in)}; allowed are '3x3' and '1x1'."
            )
        if self.group_widths:
            self._check_groups(family)
        self._simplify(family)
        if self.stride_in == "1x1" and not family.chooses_stride:
            raise CodeError(
                f"{family.name} code: stride_in '1x1' exists only where blocks have a first 1x1 "
                "convolution with a choice of stride: in resnet50 and the families of its blocks."
            )

    def _simplify(self, family: Family) -> None:
        """Write a subnetwork in the published form where that describes it too: equal networks have one code."""
        if self.form == family.letter:
            return
        if self.first_bottlenecks:
            # The inner width of further blocks means nothing where there are none.
            pairs = zip(self.bottlenecks, self.first_bottlenecks, self.depths, strict=True)
            inner = tuple(e if depth == 1 else b for b, e, depth in pairs)
            object.__setattr__(self, "bottlenecks", inner)
        published = family.published_thirds(self)
        if published is not None and max(published, default=1) <= MAX_EXPANSION:
            for letter in self.form:
                object.__setattr__(self, FIELDS[letter], ())
            if family.letter:
                object.__setattr__(self, FIELDS[family.letter], published)

    def _check_list(self, family: Family, form: str, letter: str, most: int) -> None:
        field = FIELDS[letter]
        value = getattr(self, field)
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise CodeError(f"{family.name} code: {field} is {formatted(value)}; it takes {family.stages} integers.")
        values = tuple(value)
        if len(values) != family.stages:
            raise CodeError(
                f"{family.name} code: got {len(values)} {field} {formatted(list(values))}; "
                f"{family.stages} are needed ({family.words_of(form)})."
            )
        names = (f"{letter}{i}" for i in family.numbers)
        checked = tuple(_integer(family.name, n, v, most) for n, v in zip(names, values, strict=True))
        object.__setattr__(self, field, checked)

    def _check_groups(self, family: Family) -> None:
        letter, widths = ("B", self.bottlenecks) if self.bottlenecks else ("C", self.widths)
        for number, width, group in zip(family.numbers, widths, self.group_widths, strict=True):
            if width % group:
                raise CodeError(
                    f"{self.family} code: G{number} is {group}, which does not divide "
                    f"{letter}{number}, {width}: a stage is made of whole groups."
                )

    def _fix(self, field: str, default: int, most: int) -> None:
        value = getattr(self, field)
        if isinstance(value, int) and value == FAMILY_DEFAULT:
            object.__setattr__(self, field, default)
        elif default == 0:
            if value != 0:
                raise CodeError(
                    f"{self.family} code: {field} is {formatted(value)}, but the family has no {_PARTS[field]}."
                )
            object.__setattr__(self, field, 0)
        else:
            object.__setattr__(self, field, _integer(self.family, field, value, most))

    # -- entries ---------------------------------------------------------------------------------------------

    @property
    def entries(self) -> tuple[int, ...]:
        """All searched numbers in the paper's order: widths, depths, then the third ones."""
        return self.widths + self.depths + self.thirds

    @property
    def form(self) -> str:
        """The letters of the third entries: ``B``, ``T``, ``G``, ``BE``, ``BG`` or none."""
        return "".join(letter for letter, field in FIELDS.items() if letter not in "CL" and getattr(self, field))

    @property
    def thirds(self) -> tuple[int, ...]:
        """The third entries, letter by letter: inner widths, expansions or group widths; empty where there are none."""
        return self.bottlenecks + self.first_bottlenecks + self.expansions + self.group_widths

    @property
    def entry_names(self) -> tuple[str, ...]:
        """The names of ``entries``, e.g. ``('C2', .., 'L2', .., 'B2', ..)``."""
        return family_of(self.family).names_of(self.form)

    @property
    def fixed_parts(self) -> dict[str, Any]:
        """The fixed parts that differ from the family's defaults, by field name; empty for most codes."""
        family = family_of(self.family)
        stage2 = family.stage2 or (0, 0)
        default = (family.stem_width or self.widths[0], *stage2, family.image_size, "3x3", family.head_width)
        return {f: getattr(self, f) for f, d in zip(_FIXED, default, strict=True) if getattr(self, f) != d}

    @classmethod
    def from_entries(
        cls,
        family: str,
        entries: Iterable[int],
        *,
        form: str | None = None,
        stem_width: int = FAMILY_DEFAULT,
        stage2_width: int = FAMILY_DEFAULT,
        stage2_depth: int = FAMILY_DEFAULT,
        image_size: int = FAMILY_DEFAULT,
        stride_in: StrideIn = "3x3",
        head_width: int = FAMILY_DEFAULT,
    ) -> Code:
        """A code from its numbers in the paper's order (a row of an integer array will do).

        Fixed parts that are not given are the family's. Rows and trials of a search have their space's instead:
        ``Space.code(row)`` and ``Space.code_of(trial)`` take these.

        ``form`` are the letters of the third entries, by default those of the family's published networks.
        """
        data = family_of(family)
        form = data.letter if form is None else form
        # numpy integers become plain ones, so that a code from an array prints and pickles like any other.
        if isinstance(entries, str) or not isinstance(entries, Iterable):
            raise CodeError(f"A {family} code is made of {data.words_of(form)}; got {formatted(entries)}.")
        values = tuple(plain_number(v) for v in entries)
        n = data.stages
        if len(values) != (2 + len(form)) * n:
            raise CodeError(
                f"A {family} code has {(2 + len(form)) * n} entries ({data.words_of(form)}); "
                f"got {len(values)}: {formatted(list(values), 200)}."
            )
        thirds: dict[str, Any] = {FIELDS[c]: values[k * n : (k + 1) * n] for k, c in enumerate(form, start=2)}
        return cls(
            family,
            values[:n],
            values[n : 2 * n],
            **thirds,
            stem_width=stem_width,
            stage2_width=stage2_width,
            stage2_depth=stage2_depth,
            image_size=image_size,
            stride_in=stride_in,
            head_width=head_width,
        )

    # -- text ------------------------------------------------------------------------------------------------

    def __str__(self) -> str:
        def join(values: Iterable[int]) -> str:
            return "-".join(map(str, values))

        text = f"{self.family}_c{join(self.widths)}_l{join(self.depths)}"
        for letter in self.form:
            if letter != "E" or self.first_bottlenecks != self.bottlenecks:
                text += f"_{letter.lower()}{join(getattr(self, FIELDS[letter]))}"
        fixed = self.fixed_parts
        if "stem_width" in fixed:
            text += f"_stem{self.stem_width}"
        if "stage2_width" in fixed or "stage2_depth" in fixed:
            text += f"_stage2-{self.stage2_width}x{self.stage2_depth}"
        if "head_width" in fixed:
            text += f"_head{self.head_width}"
        if "image_size" in fixed:
            text += f"_px{self.image_size}"
        if "stride_in" in fixed:
            text += f"_stride{self.stride_in}"
        return text

    @classmethod
    def parse(cls, text: str, *, family: str | None = None) -> Code:
        """The code that a text describes.

        Args:
            text: What ``str(code)`` gives (safe as a file, repository and shell word), or the paper's flat form
                ``{24,40,..}``, with any bracket or none, after the family's name or with ``family``.
            family: Needed for the flat form when the text does not start with it; must agree when it does.

        Raises:
            CodeError: The text is not of these forms, or describes an impossible code.
            UnknownNameError: The family does not exist.
        """
        if not isinstance(text, str):
            raise CodeError(f"A code is parsed from text, not from {type(text).__name__}: {formatted(text)}.")
        if len(text) > MAX_TEXT:
            raise CodeError(f"A code's text has at most {MAX_TEXT} characters; got {len(text)}: {text[:40]!r}..")
        word = text.strip().lower()
        named = FAMILIES.begins(word)
        if flat := _FLAT.fullmatch(word[len(named or "") :].lstrip("_: ")):
            code_family = _agree(named, family, text)
            return cls.from_entries(code_family, [int(v) for v in re.findall(r"\d+", flat.group(1))])
        if named is None:
            first = re.split(r"_c\d|[{\[(\s]", word)[0]
            hint = close_matches(first, FAMILIES)
            raise CodeError(
                f"Cannot read {text!r} as a code: it starts with no family's name.{hint} "
                f"A code looks like {_FORM}, or like {{24,40,..}} with a family."
            )
        _agree(named, family, text)
        rest = word[len(named) :].removeprefix("_")
        return cls._from_words(named, rest.split("_") if rest else [], text)

    @classmethod
    def _from_words(cls, family: str, words: list[str], text: str) -> Code:
        forms = [form.lower() for form in family_of(family).forms]
        lists: dict[str, list[int]] = {}
        fixed: dict[str, Any] = {}
        for word in words:
            if match := re.fullmatch(r"([clbetg])(\d+(?:-\d+)*)", word):
                key, values = match.group(1), [int(v) for v in match.group(2).split("-")]
                if key in lists:
                    raise CodeError(f"Cannot read {text!r}: the part {key!r} appears twice.")
                if key not in "cl" + "".join(forms):
                    raise CodeError(
                        f"Cannot read {text!r}: a {family} code has no {key.upper()} entries; "
                        f"it is made of {family_of(family).form}."
                    )
                lists[key] = values
                continue
            parts: dict[str, Any]
            if match := re.fullmatch(r"stem(\d+)", word):
                parts = {"stem_width": int(match.group(1))}
            elif match := re.fullmatch(r"stage2-(\d+)x(\d+)", word):
                parts = {"stage2_width": int(match.group(1)), "stage2_depth": int(match.group(2))}
            elif match := re.fullmatch(r"head(\d+)", word):
                parts = {"head_width": int(match.group(1))}
            elif match := re.fullmatch(r"px(\d+)", word):
                parts = {"image_size": int(match.group(1))}
            elif match := re.fullmatch(r"stride(1x1|3x3)", word):
                parts = {"stride_in": match.group(1)}
            else:
                raise CodeError(
                    f"Cannot read {text!r}: the part {word!r} is not one of c.., l.., b.., e.., t.., g.., "
                    f"stem.., stage2-WIDTHxDEPTH, head.., px.., stride1x1, stride3x3. A code looks like {_FORM}."
                )
            if parts.keys() & fixed.keys():
                raise CodeError(f"Cannot read {text!r}: the part {word!r} repeats another part.")
            fixed |= parts
        # E alone may be left out.
        for key in "cl" + next((form.replace("e", "") for form in forms if form and form[0] in lists), forms[0]):
            if key not in lists:
                raise CodeError(
                    f"Cannot read {text!r}: the part '{key}..' is missing; "
                    f"a {family} code is made of {family_of(family).form}."
                )
        entries: dict[str, Any] = {FIELDS[key.upper()]: tuple(values) for key, values in lists.items()}
        return cls(family, **entries, **fixed)

    # -- JSON ------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The code as JSON-ready values; fixed parts appear only where they differ from the family's defaults."""
        data: dict[str, Any] = {"family": self.family, "widths": list(self.widths), "depths": list(self.depths)}
        data |= {FIELDS[letter]: list(getattr(self, FIELDS[letter])) for letter in self.form}
        return data | self.fixed_parts

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Code:
        """The code that ``to_dict`` wrote; an unknown or missing key is a ``CodeError`` that names it."""
        if not isinstance(data, Mapping):
            raise CodeError(f"A code is read from a mapping, not from {type(data).__name__}: {formatted(data)}.")
        allowed = ("family", *FIELDS.values(), *_FIXED)
        for key in data:
            if key not in allowed:
                raise CodeError(f"A code has no key {formatted(key)}; allowed are {', '.join(allowed)}.")
        for key in allowed[:3]:
            if key not in data:
                raise CodeError(f"A code needs the key {key!r}; got {', '.join(map(str, data)) or 'none'}.")
        return cls(**cast("dict[str, Any]", dict(data)))


def stages_of(code: Code, *, num_classes: int = 1000, in_chans: int = 3) -> tuple[Stage[int], ...]:
    """The stages of one code in the order of the forward: stem, searched stages, head, classifier."""
    fixed = Fixed(
        code.stem_width,
        code.stage2_width,
        code.stage2_depth,
        code.stride_in,
        code.form,
        code.head_width,
        code.image_size,
    )
    return family_of(code.family).layout(code.widths, code.depths, code.thirds, fixed, num_classes, in_chans)


def entries_of(code: Code, form: str) -> tuple[int, ...]:
    """A code's entries with third entries of another form that its family has: of its networks' inner widths.

    Example:
        >>> entries_of(Code.parse("resnet18_c24-48-96-192_l2-2-2-2"), "B")
        (24, 48, 96, 192, 2, 2, 2, 2, 24, 48, 96, 192)
    """
    if form == code.form:
        return code.entries
    numbers = family_of(code.family).numbers
    stages = [stage for stage in stages_of(code) if stage.number in numbers and stage.first.stacked]
    inner = {
        "B": tuple((stage.rest if stage.depth > 1 else stage.first).mid_width for stage in stages),
        "E": tuple(stage.first.mid_width for stage in stages),
    }
    return code.widths + code.depths + tuple(width for letter in form for width in inner[letter])


def common_form(codes: Iterable[Code]) -> str:
    """The letters of third entries in which all these codes of a family can be written (``entries_of``).

    Their own where these are the same; else those of inner widths, which describe any of them.

    Example:
        >>> common_form([Code.parse("resnet18_c8-8-8-8_l1-1-1-1"), Code.parse("resnet18_c8-8-8-8_l1-1-1-1_b4-8-8-8")])
        'B'
    """
    forms = {(code.family, code.form) for code in codes}
    return family_of(next(iter(forms))[0]).forms[-1] if len(forms) > 1 else next(iter(forms))[1]


def layers_of(code: Code, *, num_classes: int = 1000, in_chans: int = 3) -> tuple[Layer[int], ...]:
    """Every convolution and linear layer of a code's network, in the order of its modules."""
    return tuple(
        layer
        for stage in stages_of(code, num_classes=num_classes, in_chans=in_chans)
        for block in stage.blocks()
        for layer in block.layers()
        if layer.present
    )


def plain_number(value: Any) -> Any:
    """The Python number in a numpy scalar; anything else as it is."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, Iterable) and not tuple(value))


def _integer(family: str, name: str, value: object, most: int) -> int:
    value = plain_number(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise CodeError(f"{family} code: {name} is {formatted(value)}; allowed is an integer from 1 to {most}.")
    return value


def _agree(named: str | None, family: str | None, text: str) -> str:
    if named is None and family is None:
        raise CodeError(f"Cannot read {text!r} without its family: write it first, as in resnet18{{64,..}}.")
    if named and family and named != family_of(family).name:
        raise CodeError(f"{text!r} is a {named} code, not a {family} code.")
    return family_of(cast(str, named or family)).name
