"""A run while it goes on, for the screen of its coordinator, a hospital, or the person who simulates."""
