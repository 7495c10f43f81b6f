"""bsszoo.report."""
