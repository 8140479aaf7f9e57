"""The commands; everything is imported lazily."""
