"""The local part of a round, losses and metrics."""
