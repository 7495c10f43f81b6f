"""How good is a code: what an evaluator is, and the built-in ones, found by name."""
