"""A linear head over encrypted features: the picture stays with who asks, the weights with who answers."""
