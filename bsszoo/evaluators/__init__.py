"""How good is a code: what an evaluator is, and the built-in ones by name."""

from bsszoo.evaluators.base import Evaluator, EvaluatorInfo, FunctionEvaluator, Score, Trial, as_evaluator

__all__ = ["Evaluator", "EvaluatorInfo", "FunctionEvaluator", "Score", "Trial", "as_evaluator"]
