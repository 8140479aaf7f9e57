"""Whole numbers: the grid and its noise, the ring that sums are formed in, and its bytes."""
