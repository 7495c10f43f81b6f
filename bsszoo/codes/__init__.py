"""Codes, search spaces and costs: integers only, no torch."""

from bsszoo.codes.code import Code, layers_of, stages_of
from bsszoo.codes.cost import Cost, StageCost, code_cost, depth, stage_costs
from bsszoo.codes.cost_array import CostArray, cost_array, depth_array
from bsszoo.codes.families import FAMILIES, Family, family_of
from bsszoo.codes.layers import Block, Layer, Stage
from bsszoo.codes.space import Space

__all__ = [
    "FAMILIES",
    "Block",
    "Code",
    "Cost",
    "CostArray",
    "Family",
    "Layer",
    "Space",
    "Stage",
    "StageCost",
    "code_cost",
    "cost_array",
    "depth",
    "depth_array",
    "family_of",
    "layers_of",
    "stage_costs",
    "stages_of",
]
