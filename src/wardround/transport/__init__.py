"""Transports: bytes between the coordinator and hospitals, each one file behind `Channel`; none reads a message."""
