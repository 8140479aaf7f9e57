"""Mechanisms, and the plan that owns the guarantee."""
