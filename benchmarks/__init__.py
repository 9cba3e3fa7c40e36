"""Measurements, python -m benchmarks.NAME."""

from system import stopping

stopping.while_found()  # PyTorch takes seconds to import: Ctrl-C is no traceback by then, too
