"""Sums that nobody can open. Knows nothing of learning."""
