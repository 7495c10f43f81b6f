"""bsszoo.search."""
