"""Metrics of a model on test patients, with intervals over patients.

Intervals are percentile bootstraps over patients: patients are drawn with replacement, and all their pictures follow.
Resampling pictures would treat two views of one child as two children, and promise too much.

Numbers computed here say something about the test patients, and nothing protects them. A number that the test set
cannot give is None, never zero and never NaN. Throughout, `scores` are class probabilities, (picture, class), and
`labels` class indices, (picture,).
"""
