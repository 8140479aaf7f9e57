"""Arrays of a run, and a file with one bit turned."""

import numpy as np

ARRAYS = {
    "state:weights": np.arange(6, dtype=np.float32).reshape(2, 3),
    "state:hospital-1/velocity": np.zeros(0, dtype=np.float32),
    "mean:global": np.array([1e-30, -1.5, 3e30], dtype=np.float32),
}


def damaged(path, at):
    """The file with one bit of one byte turned."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
