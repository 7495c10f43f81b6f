"""bsszoo.nets."""
