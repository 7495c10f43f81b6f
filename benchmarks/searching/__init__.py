"""The parts of ``benchmarks/search.py``: tables, the protocol, samplers, the file of runs, the report and the plot."""
