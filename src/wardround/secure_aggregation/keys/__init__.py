"""Keys: identities and the files they are in, the pins of the others, and secrets that are used once."""
