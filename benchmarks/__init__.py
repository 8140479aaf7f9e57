"""Measurements, their commands and their results. A package because Opacus installs one of this name."""
