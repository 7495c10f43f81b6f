"""``Code``: what it accepts, what it says when it does not, and its two written forms."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from strategies import FAMILY_NAMES, codes

from bsszoo.codes import Code
from bsszoo.errors import BssZooError, CodeError, UnknownNameError

RESNET18 = Code("resnet18", (64, 128, 256, 512), (2, 2, 2, 2))
RESNET50 = Code("resnet50", (256, 512, 1024, 2048), (3, 4, 6, 3), bottlenecks=(64, 128, 256, 512))
MOBILENET = Code("mobilenetv2", (24, 32, 64, 96, 160, 320), (2, 3, 4, 3, 3, 1), expansions=(6,) * 6)

PAPER = {  # Tables 3 to 5, braces and blanks as printed (MobileNetV2's first row without its stray 6)
    "resnet18": "{32,32,128,1024,4,14,14,1}",
    "resnet50": "{128,256,768,2048,9,6,9,3,48,128,192,512}",
    "mobilenetv2": "{24,40,64,96,120,240, 4,3,2,3,6,2,3,6,6,3,6,6}",
    "efficientnet_b0": "{28,48,80,140,144,240, 3,1,4,2,6,3,3,3,6,3,6,6}",
    "efficientnet_b1": "{24,64,96,112,192,240,3,1,3,4,7,5,6,3,3,3,6,6}",
}


def numbers(text: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", text)]


class TestWrittenForms:
    @given(codes())
    @settings(max_examples=300)
    def test_text_form_reads_back_as_the_same_code(self, code: Code) -> None:
        assert Code.parse(str(code)) == code

    @given(codes())
    def test_text_form_is_a_safe_file_name_and_shell_word(self, code: Code) -> None:
        assert re.fullmatch(r"[a-z0-9_-]+", str(code))
        assert len(str(code)) < 255

    @given(codes())
    @settings(max_examples=300)
    def test_dictionary_goes_through_json(self, code: Code) -> None:
        assert Code.from_dict(json.loads(json.dumps(code.to_dict()))) == code

    @given(codes(), codes())
    def test_two_codes_are_equal_exactly_when_their_texts_are(self, a: Code, b: Code) -> None:
        assert (a == b) == (str(a) == str(b))
        assert a != b or hash(a) == hash(b)

    @given(codes(fixed_parts=False))
    def test_entries_in_the_papers_order_make_the_code_again(self, code: Code) -> None:
        assert Code.from_entries(code.family, code.entries, form=code.form) == code
        assert len(code.entry_names) == len(code.entries)

    def test_text_of_a_code_with_every_fixed_part(self) -> None:
        code = dataclasses.replace(MOBILENET, stem_width=16, stage2_width=12, stage2_depth=2, image_size=192)
        assert str(code) == ("mobilenetv2_c24-32-64-96-160-320_l2-3-4-3-3-1_t6-6-6-6-6-6_stem16_stage2-12x2_px192")
        assert str(dataclasses.replace(RESNET50, stride_in="1x1")).endswith("_b64-128-256-512_stride1x1")

    def test_fixed_parts_are_written_only_where_they_differ(self) -> None:
        assert MOBILENET.fixed_parts == {}
        assert dataclasses.replace(MOBILENET, image_size=160).fixed_parts == {"image_size": 160}
        assert set(RESNET50.to_dict()) == {"family", "widths", "depths", "bottlenecks"}

    def test_the_order_of_parts_in_the_text_is_free(self) -> None:
        assert Code.parse("resnet18_l2-2-2-2_px224_c64-128-256-512") == RESNET18


class TestThePapersForm:
    @pytest.mark.parametrize("family", PAPER)
    def test_every_code_as_printed(self, family: str) -> None:
        code = Code.parse(PAPER[family], family=family)
        assert list(code.entries) == numbers(PAPER[family])
        assert code.family == family

    @pytest.mark.parametrize("family", PAPER)
    @pytest.mark.parametrize(
        "form",
        [
            "{}",
            "[{}]",
            "({})",
            "{{{}}}",
            "  {{ {} }}\n",
            "{family}{{{}}}",
            "{family} {{{}}}",
            "{family}: {}",
            "{family}_{}",
            "{family} [{}]",
            "{family} {}",
            "{}, ",
        ],
    )
    def test_brackets_blanks_and_the_familys_name_are_free(self, family: str, form: str) -> None:
        flat = PAPER[family].strip("{}")
        wanted = Code.parse(PAPER[family], family=family)
        for separated in (flat, flat.replace(",", " "), flat.replace(",", " ,  ")):
            assert Code.parse(form.format(separated, family=family), family=family) == wanted
            if "family" in form:
                assert Code.parse(form.format(separated, family=family)) == wanted
                assert Code.parse(form.format(separated, family=family.upper())) == wanted

    def test_the_stray_6_of_the_mobilenetv2_row_is_an_error_that_counts(self) -> None:
        printed = "{24,32,64,96,160,320,2,3,4,3,3,1,6,6,6,6,6,6,6}"
        with pytest.raises(CodeError, match=r"18 entries .* got 19"):
            Code.parse(printed, family="mobilenetv2")

    def test_resnet18s_stem_follows_c2(self) -> None:
        assert Code.parse(PAPER["resnet18"], family="resnet18").stem_width == 32
        assert RESNET18.stem_width == 64
        assert dataclasses.replace(RESNET18, stem_width=32).fixed_parts == {"stem_width": 32}

    def test_defaults_of_the_other_families(self) -> None:
        assert (RESNET50.stem_width, RESNET50.stage2_width, RESNET50.stage2_depth) == (64, 0, 0)
        assert (MOBILENET.stem_width, MOBILENET.stage2_width, MOBILENET.stage2_depth) == (32, 16, 1)
        assert {f: Code.parse(t, family=f).image_size for f, t in PAPER.items()} == {
            "resnet18": 224,
            "resnet50": 224,
            "mobilenetv2": 224,
            "efficientnet_b0": 224,
            "efficientnet_b1": 240,
        }


class TestTheValue:
    @given(codes())
    def test_is_immutable_hashable_and_picklable(self, code: Code) -> None:
        with pytest.raises(dataclasses.FrozenInstanceError):
            code.widths = (1,)  # type: ignore[misc]
        assert {code: 1}[Code.from_dict(code.to_dict())] == 1
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            assert pickle.loads(pickle.dumps(code, protocol)) == code
        assert copy.deepcopy(code) == code

    def test_lists_and_numpy_integers_become_plain_tuples_of_int(self) -> None:
        code = Code("resnet18", np.array([64, 128, 256, 512]), [np.int32(2)] * 4, image_size=np.int64(224))
        assert code == RESNET18
        assert all(type(v) is int for v in (*code.entries, code.image_size, code.stem_width))
        assert json.dumps(code.to_dict())

    def test_a_row_of_an_array_makes_a_code(self) -> None:
        row = np.array(MOBILENET.entries, dtype=np.uint16)
        assert Code.from_entries("mobilenetv2", row) == MOBILENET


C4 = {"family": "resnet18", "widths": (64, 128, 256, 512), "depths": (2, 2, 2, 2)}
M6 = MOBILENET.to_dict()

# what is given -> words that the error must hold: the entry, what was given, what is allowed
MALFORMED = [
    (C4 | {"widths": (64, 128, 0, 512)}, ["C4", "0", "1 to 65536"]),
    (C4 | {"widths": (64, 128, -8, 512)}, ["C4", "-8", "1 to 65536"]),
    (C4 | {"widths": (64, 70000, 256, 512)}, ["C3", "70000", "1 to 65536"]),
    (C4 | {"widths": (64, 128.0, 256, 512)}, ["C3", "128.0", "integer"]),
    (C4 | {"widths": (64, "128", 256, 512)}, ["C3", "'128'", "integer"]),
    (C4 | {"widths": (64, None, 256, 512)}, ["C3", "None", "integer"]),
    (C4 | {"widths": (True, 128, 256, 512)}, ["C2", "True", "integer"]),
    (C4 | {"widths": (64, float("nan"), 256, 512)}, ["C3", "nan", "integer"]),
    (C4 | {"widths": (64, 128, 256)}, ["3 widths", "[64, 128, 256]", "4 are needed"]),
    (C4 | {"widths": ()}, ["0 widths", "4 are needed"]),
    (C4 | {"widths": "64-128"}, ["widths", "64-128", "4 integers"]),
    (C4 | {"widths": 64}, ["widths", "64", "4 integers"]),
    (C4 | {"widths": np.ones((4, 2), int)}, ["C2", "array", "integer"]),
    (C4 | {"depths": (2, 2, 2, 2, 2)}, ["5 depths", "4 are needed"]),
    (C4 | {"depths": (2, 2, 2, 1001)}, ["L5", "1001", "1 to 1000"]),
    (C4 | {"bottlenecks": (1, 1, 1)}, ["3 bottlenecks", "4 are needed", "4 widths, 4 depths, 4 bottleneck widths"]),
    (C4 | {"first_bottlenecks": (1, 1, 1, 1)}, ["no first_bottlenecks", "4 widths, 4 depths"]),
    (C4 | {"expansions": (6, 6, 6, 6)}, ["no expansions", "4 widths, 4 depths"]),
    (C4 | {"stage2_width": 16}, ["stage2_width", "16", "no fixed stage 2"]),
    (C4 | {"stride_in": "1x1"}, ["stride_in", "resnet50"]),
    (C4 | {"stride_in": "5x5"}, ["stride_in", "'5x5'", "'3x3' and '1x1'"]),
    (C4 | {"image_size": 0}, ["image_size", "0", "1 to 16384"]),
    (C4 | {"image_size": (224, 224)}, ["image_size", "(224, 224)", "integer"]),
    (M6 | {"expansions": (6, 6, 6, 6, 6, 65)}, ["T8", "65", "1 to 64"]),
    (M6 | {"expansions": (6, 6, 6)}, ["3 expansions", "6 are needed"]),
    (M6 | {"bottlenecks": (8,) * 6}, ["expansions", "bottlenecks", "got both"]),
    (M6 | {"first_bottlenecks": (8,) * 6}, ["no first_bottlenecks", "6 widths, 6 depths, 6 expansions"]),
    (M6 | {"stem_width": 0}, ["stem_width", "0", "1 to 65536"]),
    (M6 | {"stage2_depth": 1001}, ["stage2_depth", "1001", "1 to 1000"]),
    (RESNET50.to_dict() | {"bottlenecks": ()}, ["0 bottlenecks", "4 are needed"]),
    (C4 | {"family": "resnet19"}, ["'resnet19'", "resnet18"]),
    (C4 | {"family": None}, ["There is no family None", "such as"]),
]


class TestErrors:
    @pytest.mark.parametrize(("given_", "words"), MALFORMED)
    def test_a_malformed_code_names_the_entry_the_value_and_the_allowed(
        self, given_: dict[str, object], words: list[str]
    ) -> None:
        for make in (lambda: Code(**given_), lambda: Code.from_dict(given_)):  # type: ignore[arg-type]
            with pytest.raises((CodeError, UnknownNameError)) as caught:
                make()
            for word in words:
                assert word in str(caught.value)

    def test_errors_are_builtins_too(self) -> None:
        with pytest.raises(ValueError, match="C2"):
            Code("resnet18", (0, 1, 1, 1), (1, 1, 1, 1))
        with pytest.raises(KeyError):
            Code("nothing", (), ())

    def test_none_for_a_list_the_family_has_not_is_no_list(self) -> None:
        assert Code("resnet18", (64, 128, 256, 512), (2, 2, 2, 2), None, None) == RESNET18  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("data", "words"),
        [
            ([1, 2], ["mapping", "list"]),
            ({"family": "resnet18", "widths": [1, 1, 1, 1]}, ["'depths'", "family, widths"]),
            ({}, ["'family'", "none"]),
            (C4 | {"width": 3}, ["'width'", "widths"]),
            (C4 | {3: 3}, ["3", "widths"]),
        ],
    )
    def test_a_dictionary_with_wrong_keys_names_them(self, data: object, words: list[str]) -> None:
        with pytest.raises(CodeError) as caught:
            Code.from_dict(data)  # type: ignore[arg-type]
        for word in words:
            assert word in str(caught.value)

    @pytest.mark.parametrize(
        ("text", "family", "words"),
        [
            ("{64,128,256,512,2,2,2,2}", None, ["family", "resnet18"]),
            ("resnet18{64,128,256,512,2,2,2,2}", "resnet50", ["resnet18", "resnet50"]),
            ("{64,128,256,512,2,2,2,2}", "resnet20", ["'resnet20'", "resnet"]),
            ("1 2 3 4 5 6 7 8 9 " * 3 + "100 200", "mobilenetv3_large", ["18 entries", "got 29: [1, 2, 3", "200]"]),
            ("mobilnetv2_c24-40", None, ["mobilnetv2_c24-40", "mobilenetv2"]),
            ("mobilnetv2 {24,40}", None, ["mobilnetv2", "Did you mean 'mobilenetv2'"]),
            ("", None, ["''", "mobilenetv2_c24"]),
            ("resnet18", None, ["'c..'", "4 widths, 4 depths"]),
            ("resnet18_", None, ["'c..'", "4 widths, 4 depths"]),
            ("resnet18_c64-128-256-512", None, ["'l..'", "missing"]),
            ("resnext_c64-64-64-64_l1-1-1-1_b8-8-8-8", None, ["'g..'", "missing"]),
            ("resnext_c64-64-64-64_l1-1-1-1_g8-8-8-8", None, ["'b..'", "missing"]),
            ("seresnext_c64-64-64-64_l1-1-1-1_b8-8-8-8_g4-3-8-8", None, ["G3 is 3", "does not divide B3, 8"]),
            ("deit_c768-768-768-768", None, ["'l..'", "4 MLP widths, 4 depths, 4 attention widths, 4 head widths"]),
            ("resnet18_c64-128-256-512_l2-2-2-2_c1", None, ["'c'", "twice"]),
            ("resnet18_c64-128-256-512_l2-2-2-2_t6-6-6-6", None, ["no T entries"]),
            ("resnet18_c64-128-256-512_l2-2-2-2_b6-6-6", None, ["3 bottlenecks", "4 are needed"]),
            ("resnet18_c64-128-256-512_l2-2-2-2_e6-6-6-6", None, ["no E entries"]),
            ("resnet18_c64-128-256-512_l2-2-2-2_px224_px160", None, ["'px160'", "repeats"]),
            ("resnet18_c64-128-256-512_l2-2-2-2_foo", None, ["'foo'", "stem.."]),
            ("resnet18_c64-128-256-512_l2-2-2", None, ["3 depths", "4 are needed"]),
            ("resnet18_c64-128--512_l2-2-2-2", None, ["'c64-128--512'", "c.."]),
            ("{64,128,256,512,2,2,2}", "resnet18", ["8 entries", "got 7"]),
            ("{64,128,,256,512,2,2,2}", "resnet18", ["{64,128,,256,512,2,2,2}"]),
            ("{64,128,-256,512,2,2,2,2}", "resnet18", ["-256"]),
            ("{64.5,128,256,512,2,2,2,2}", "resnet18", ["64.5"]),
            ("1" * 1001, "resnet18", ["1000 characters", "1001"]),
        ],
    )
    def test_a_text_that_is_no_code_says_why(self, text: str, family: str | None, words: list[str]) -> None:
        with pytest.raises((CodeError, UnknownNameError)) as caught:
            Code.parse(text, family=family)
        for word in words:
            assert word in str(caught.value)

    @pytest.mark.parametrize("text", [None, 3, b"resnet18", ["resnet18"]])
    def test_only_text_is_parsed(self, text: object) -> None:
        with pytest.raises(CodeError, match=type(text).__name__):
            Code.parse(text)  # type: ignore[arg-type]

    @pytest.mark.parametrize("entries", [5, None, "64,128", [1, 2, 3]])
    def test_entries_that_are_no_list_of_the_right_length(self, entries: object) -> None:
        with pytest.raises(CodeError, match="4 widths, 4 depths"):
            Code.from_entries("resnet18", entries)  # type: ignore[arg-type]


# Arbitrary text, text near a code, and a code's text with one piece exchanged.
_PIECES = st.sampled_from(
    [
        *FAMILY_NAMES,
        "_",
        "-",
        "{",
        "}",
        "[",
        "(",
        ",",
        " ",
        "  ",
        "c",
        "l",
        "t",
        "b",
        "px",
        "stem",
        "stage2",
        "stride",
        "x",
        "0",
        "1",
        "64",
        "٣",
        "²",
        "İ",
        "\n",
        "\x00",
        "99999999999",
        ".",
    ]
)
_NEAR = st.lists(_PIECES, max_size=60).map("".join)


@st.composite
def _damaged(draw: st.DrawFn) -> str:
    text = str(draw(codes()))
    start = draw(st.integers(0, len(text)))
    return text[:start] + draw(_NEAR) + text[draw(st.integers(start, len(text))) :]


class TestFuzz:
    @given(st.one_of(st.text(), _NEAR, _damaged()), st.one_of(st.none(), st.sampled_from(FAMILY_NAMES), st.text()))
    @settings(max_examples=1000)
    @example("1  " * 300 + "x", "resnet18")  # separators that match in two ways would take 2^300 steps
    @example("{1" + " " * 990 + "x}", "resnet18")
    @example("{" + "9" * 5000 + "}", "resnet18")  # more digits than int() takes
    def test_parse_returns_a_code_or_raises_our_error(self, text: str, family: str | None) -> None:
        try:
            code = Code.parse(text, family=family)
        except BssZooError:
            return
        assert Code.parse(str(code)) == code
