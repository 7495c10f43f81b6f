"""Classifiers trained and measured: recipe, images, samples, task, accuracy, what a training leaves."""
