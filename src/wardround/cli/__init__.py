"""The commands; everything is imported lazily."""

import os

# NumPy and SciPy bring a pool of threads each, which wait for one another: a head is fitted 14 times faster without.
# It is read at their import. Threads of torch, which `[performance] threads` is about, are others.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
