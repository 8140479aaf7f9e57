"""A trained model in other programs' forms, each checked against the model itself before it is handed over."""
