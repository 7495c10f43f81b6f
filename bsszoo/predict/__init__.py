"""Pictures of what a network says: boxes and masks of a detector, the first labels of a classifier."""
