"""From values to the rows that are trained on: one recipe, and the cache of what it made."""
