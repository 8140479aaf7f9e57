"""The networks, one a file, cut into a fixed public encoding and what may be trained."""
