"""The parts of ``gpu.py``: what of bsszoo takes a GPU, each with its steps and the table of its results."""
