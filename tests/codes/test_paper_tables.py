"""The costs printed in the paper's Tables 3 to 5, recounted. docs/findings.md tells the story of each slip."""

from __future__ import annotations

from dataclasses import replace

import pytest
from forward_count import detector_cost, resnet

from bsszoo.codes import Code, Cost, code_cost, layers_of

# family, entries, printed FLOPs (MACs), printed params; the MobileNetV2 original without its stray 6
TABLES_3_AND_4 = [
    ("resnet18", "64,128,256,512,2,2,2,2", "1.81B", "11.69M"),
    ("resnet18", "32,64,128,512,1,2,8,5", "1.74B", "24.87M"),
    ("resnet18", "32,32,128,1024,4,14,14,1", "1.81B", "16.15M"),
    ("resnet50", "256,512,1024,2048,3,4,6,3,64,128,256,512", "4.09B", "25.55M"),
    ("resnet50", "128,640,1024,3072,8,7,4,3,48,80,256,384", "3.69B", "23.00M"),
    ("resnet50", "128,256,768,2048,9,6,9,3,48,128,192,512", "4.03B", "23.73M"),
    ("mobilenetv2", "24,32,64,96,160,320,2,3,4,3,3,1,6,6,6,6,6,6", "300M", "3.50M"),
    ("mobilenetv2", "20,48,80,144,200,480,2,4,3,2,5,1,3,3,3,6,3,3", "298M", "4.00M"),
    ("mobilenetv2", "24,40,64,96,120,240,4,3,2,3,6,2,3,6,6,3,6,6", "296M", "3.92M"),
    ("efficientnet_b0", "24,40,80,112,192,320,2,2,3,3,4,1,6,6,6,6,6,6", "385M", "5.29M"),
    ("efficientnet_b0", "24,40,96,112,192,640,1,2,1,2,6,1,6,6,6,3,6,6", "356M", "6.67M"),
    ("efficientnet_b0", "28,48,80,140,144,240,3,1,4,2,6,3,3,3,6,3,6,6", "381M", "6.39M"),
    ("efficientnet_b1", "24,40,80,112,192,320,3,3,4,4,5,2,6,6,6,6,6,6", "685M", "7.79M"),
    ("efficientnet_b1", "16,24,128,140,240,400,4,6,2,4,5,2,3,3,3,3,6,6", "673M", "10.19M"),
    ("efficientnet_b1", "24,64,96,112,192,240,3,1,3,4,7,5,6,3,3,3,6,6", "684M", "10.17M"),
    ("mobilenetv2", "16,20,40,56,96,192,2,3,4,3,3,1,6,6,6,6,6,6", "130M", "2.2M"),
    ("mobilenetv2", "16,20,40,56,96,288,1,4,6,1,6,1,3,6,6,3,6,6", "130M", "2.7M"),
]
# Two rows are further off than their last printed digit, for no reason we found: the ratio allowed for them.
FURTHER_OFF = {"685M": 1.003, "673M": 1.002}


def printed(text: str) -> tuple[float, float]:
    """The number in a printed figure, and the value of one unit of its last digit."""
    digits, unit = text[:-1], {"B": 1e9, "M": 1e6}[text[-1]]
    return float(digits) * unit, unit * 10.0 ** -len(digits.partition(".")[2])


def network(family: str, entries: str) -> Code:
    code = Code.parse(entries, family=family)
    if family == "efficientnet_b1" and code.widths == (24, 40, 80, 112, 192, 320):
        return replace(code, stage2_depth=2)
    if family == "mobilenetv2" and code.widths[0] == 16:
        return replace(code, stem_width=16, stage2_width=12)
    return code


def detector(entries: str, *, retina: bool, stride_in: str = "1x1") -> tuple[int, int]:
    """(MACs, params) of a detector of Table 5; its backbone must cost what the package says."""
    code = replace(Code.parse(entries, family="resnet50"), stride_in=stride_in, image_size=800)
    alone = resnet(code.widths, code.depths, code.bottlenecks, 64, size=(800, 800), classes=0, stride_in=stride_in)
    assert code_cost(code, num_classes=0) == Cost(alone.macs, alone.params, alone.activations)
    return detector_cost(code.widths, code.depths, code.bottlenecks, retina=retina, stride_in=stride_in)


@pytest.mark.parametrize(("family", "entries", "macs", "params"), TABLES_3_AND_4)
def test_a_row_of_table_3_or_4(family: str, entries: str, macs: str, params: str) -> None:
    cost = code_cost(network(family, entries))
    # The paper rounds some figures and cuts others (25.557M is printed as 25.55M): one unit of the last digit.
    for ours, text in ((cost.macs, macs), (cost.params, params)):
        value, last_digit = printed(text)
        if text in FURTHER_OFF:
            assert value + last_digit < ours < FURTHER_OFF[text] * value
        else:
            assert abs(ours - value) < last_digit


class TestReadingsThatTheTablesRuleOut:
    @pytest.mark.parametrize(
        ("entries", "macs"), [("32,64,128,512,1,2,8,5", 1836.6), ("32,32,128,1024,4,14,14,1", 1903.7)]
    )
    def test_a_resnet18_stem_of_64(self, entries: str, macs: float) -> None:
        code = replace(Code.parse(entries, family="resnet18"), stem_width=64)
        assert round(code_cost(code).macs / 1e6, 1) == macs

    @pytest.mark.parametrize(("row", "macs"), [(13, 679.9), (14, 690.1)])
    def test_two_blocks_in_stage_2_of_the_searched_b1_codes(self, row: int, macs: float) -> None:
        code = replace(network(*TABLES_3_AND_4[row][:2]), stage2_depth=2)
        assert round(code_cost(code).macs / 1e6, 1) == macs

    @pytest.mark.parametrize(("row", "macs"), [(15, 151.2), (16, 145.8)])
    def test_a_full_size_stem_and_stage_2_at_130m(self, row: int, macs: float) -> None:
        code = replace(network(*TABLES_3_AND_4[row][:2]), stem_width=32, stage2_width=16)
        assert round(code_cost(code).macs / 1e6, 1) == macs

    @pytest.mark.parametrize(("row", "macs"), [(12, 685.7), (13, 672.6), (14, 682.7)])
    def test_squeeze_and_excitation_left_out_explains_one_row_and_breaks_two(self, row: int, macs: float) -> None:
        code = network(*TABLES_3_AND_4[row][:2])
        gates = sum(layer.in_width * layer.out_width for layer in layers_of(code) if layer.role == "gate")
        assert round((code_cost(code).macs - gates) / 1e6, 1) == macs


class TestTable5:
    """Backbone codes at 800x800 [px]. The rest of each detector is counted in ``forward_count``."""

    R50 = "256,512,1024,2048,3,4,6,3,64,128,256,512"
    MASK = "192,512,512,1024,9,3,6,10,24,192,256,384"
    RETINA_AS_PRINTED = "192,384,768,1536,3,7,9,8,72,192,192,384"
    RETINA = "192,384,768,1536,3,7,9,8,72,96,192,384"

    @pytest.mark.parametrize(
        ("entries", "retina", "macs", "params"),
        [
            (R50, False, "117B", "44M"),
            (MASK, False, "116B", "49M"),
            (R50, True, "146B", "38M"),
            (RETINA, True, "146B", "41M"),
        ],
    )
    def test_a_row_with_the_stride_on_the_first_1x1(self, entries: str, retina: bool, macs: str, params: str) -> None:
        for ours, text in zip(detector(entries, retina=retina), (macs, params), strict=True):
            value, last_digit = printed(text)
            assert abs(ours - value) < last_digit

    @pytest.mark.parametrize(("entries", "retina", "macs"), [(R50, False, 117), (MASK, False, 116), (R50, True, 146)])
    def test_the_stride_on_the_3x3_gives_more_than_is_printed(self, entries: str, retina: bool, macs: int) -> None:
        assert detector(entries, retina=retina, stride_in="3x3")[0] > (macs + 2.5) * 1e9

    def test_only_b3_of_96_gives_both_printed_figures_of_retinanet(self) -> None:
        macs, params = detector(self.RETINA_AS_PRINTED, retina=True)
        assert macs > 168e9
        assert params > 43e6
        fits = []
        for b in (48, 96, 144, 192):  # C3 / 8, / 4, x 3 / 8, / 2
            macs, params = detector(self.RETINA.replace("72,96", f"72,{b}"), retina=True)
            if abs(macs - 146e9) < 1e9 and abs(params - 41e6) < 1e6:
                fits.append(b)
        assert fits == [96]
