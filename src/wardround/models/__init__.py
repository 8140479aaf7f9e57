"""The networks, and the one dictionary that names them."""
