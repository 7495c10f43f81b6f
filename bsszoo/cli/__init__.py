"""bsszoo.cli."""
