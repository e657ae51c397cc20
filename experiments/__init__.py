"""Binaries: train, unlearn, evaluate, quickstart."""

import os

# Before NumPy is imported: threads of dense solves wait for each other busily, and take five times
# as long where another process is at work. Alone they are no faster.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
