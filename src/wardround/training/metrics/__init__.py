"""How good a model is on test patients, with intervals that know that pictures of one patient go together.

Intervals are percentile bootstraps over patients: patients are drawn with replacement, and all their pictures
follow. Resampling pictures would treat two views of one child as two children, and promise too much.

Numbers computed here say something about the test patients, and nothing protects them; whoever prints
them says so. A number that the test set cannot give is None, never zero and never NaN.
"""

from wardround.training.metrics.bootstrap import Headline, Interval
from wardround.training.metrics.classification import FIXED_SPECIFICITY, Metrics, evaluate
from wardround.training.metrics.groups import MIN_PATIENTS, Groups, by_group
from wardround.training.metrics.mask_scores import MaskScores
from wardround.training.metrics.ranking import auroc
from wardround.training.metrics.segmentation import RegionMetrics, SegmentationMetrics

__all__ = [
    "FIXED_SPECIFICITY",
    "MIN_PATIENTS",
    "Groups",
    "Headline",
    "Interval",
    "MaskScores",
    "Metrics",
    "RegionMetrics",
    "SegmentationMetrics",
    "auroc",
    "by_group",
    "evaluate",
]
