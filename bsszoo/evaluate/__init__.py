"""bsszoo.evaluate."""
