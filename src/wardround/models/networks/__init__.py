"""The networks, cut into a fixed public encoding and what may be trained."""
