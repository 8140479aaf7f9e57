"""Time and memory of a study, by made-up pictures."""
