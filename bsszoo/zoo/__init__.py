"""bsszoo.zoo."""
