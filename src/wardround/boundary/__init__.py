"""The edge of the process: documents read within bounds, private files, and text made safe for a terminal."""
