"""What judges codes: the structural score, and latency measured on this machine."""

from bsszoo.evaluate.structural import StructuralEvaluator

__all__ = ["StructuralEvaluator"]
