"""From the content of a file to values; nothing the file says is trusted."""
