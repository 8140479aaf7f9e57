"""A courier for Wardround: NVIDIA FLARE carries bytes between the coordinator's and the hospitals' sockets."""
