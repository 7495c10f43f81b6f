"""Training on timm's parts: recipes, data, the loop, checkpoints and validation."""
