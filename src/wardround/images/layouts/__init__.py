"""How pictures lie on disk: one reader a layout, and the one dictionary that names them."""
