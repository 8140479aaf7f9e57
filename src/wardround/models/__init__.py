"""The one dictionary that names the networks, and what every network has: stages, vectors, weights."""
