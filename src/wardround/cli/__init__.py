"""The commands; everything is imported lazily."""

import os

# NumPy and SciPy bring a pool of threads each, and the two wait for one another: a head of 1,000 patients is fitted 14
# times faster on one thread. Both read this at their import; torch's threads (`[performance] threads`) are others.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
