"""One private step, per patient: sampling, per-patient gradients, noise, and the plan that owns the guarantee."""
