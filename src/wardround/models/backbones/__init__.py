"""Frozen public networks whose activations, standardised by public constants, are rows for a private linear head."""
