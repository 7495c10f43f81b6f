"""Codes and costs: integers only, no torch."""

from bsszoo.codes.code import Code, layers_of, stages_of
from bsszoo.codes.cost import Cost, StageCost, code_cost, depth, stage_costs
from bsszoo.codes.families import FAMILIES, Family, family_of
from bsszoo.codes.layers import Block, Layer, Stage

__all__ = [
    "FAMILIES",
    "Block",
    "Code",
    "Cost",
    "Family",
    "Layer",
    "Stage",
    "StageCost",
    "code_cost",
    "depth",
    "family_of",
    "layers_of",
    "stage_costs",
    "stages_of",
]
