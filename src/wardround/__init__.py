"""Train one diagnostic model across hospitals; no image leaves, no patient can be found in the model."""

__version__ = "0.1.0"
