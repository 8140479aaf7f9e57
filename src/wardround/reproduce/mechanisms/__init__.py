"""Mechanisms that only published systems need, reached by name through `wardround.published`."""
