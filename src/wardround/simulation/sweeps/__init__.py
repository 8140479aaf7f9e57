"""Several runs at once, in shared passes or each in a process of its own, and their comparison."""
