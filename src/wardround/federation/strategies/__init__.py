"""One file a strategy; each reads from top to bottom."""
