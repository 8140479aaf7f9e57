"""The edge of the process: bounded documents, private files, text safe for a terminal, pages for this machine."""
