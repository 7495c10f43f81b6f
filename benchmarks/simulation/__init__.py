"""The parts of ``benchmarks/workers.py``: the virtual clock, the searches on it, storages under load, the report."""
