"""Noise on every picture and label, once, before any training: mechanisms, plan and run of `local-pictures`."""
