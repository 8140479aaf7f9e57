"""A hospital's test patients, and the figures of models on them."""
