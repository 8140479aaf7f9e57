"""The edge of the process: bounded documents, private files, extras, text safe for a terminal, pages in one file."""
