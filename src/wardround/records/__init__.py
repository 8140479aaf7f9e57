"""Records of a run on disk: written whole or not at all; nothing is unpickled."""
