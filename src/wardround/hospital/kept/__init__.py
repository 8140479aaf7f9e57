"""The files of a hospital about each of its studies: notes, replies, its own memory, and the finished model."""
