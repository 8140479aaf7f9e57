"""One HTML file with a model and its runtime, for a browser without a network."""
