"""One reader for each layout of pictures on disk, and the one dictionary that names them."""
