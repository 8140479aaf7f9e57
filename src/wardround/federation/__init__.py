"""Rounds between hospitals: messages, channels, strategies, and the coordinator."""
