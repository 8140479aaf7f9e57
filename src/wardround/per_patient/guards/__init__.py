"""Guards around a network: its draws are keyed by patient, its state stays as it was, it is of a kind that works.

`clipped_sum` runs every network inside these. They cost nothing that can be measured in an ordinary step: what is dear
(`company`) happens at the first batch, at larger ones than were tried, and at random later ones.
"""
