"""Sums of encrypted updates: the published scheme, whose flaw is shown, and its threshold repair."""
