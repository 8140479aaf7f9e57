"""The model in use: pictures read as in training, answers for each of them, and the model in other programs' forms."""
