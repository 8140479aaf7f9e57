"""Per-patient gradients, ghost norms and weighted sums of one use of trained parameters, by family of layers."""
