"""What published schemes cost in total where their authors stated a part: to compare with, never to rest on."""

import math


def selective_sharing_epsilon(
    parameters: int, fraction: float, threshold_epsilon: float = 0.1, answer_epsilon: float = 0.1
) -> float:
    """Epsilon of one update shared as NVFlare's `SVTPrivacy` does, if each of its noises is what it is meant to be.

    Of n = fraction × parameters answers: epsilon_1 for the threshold, epsilon_1 (2n)^(2/3) for the queries, and
    n × answer_epsilon for the values, of which the publication states only the last, and for one of them. The scheme
    goes on with fresh noise until it has n answers, which no number of queries bounds: its true cost is larger.

    Source: Li et al. 2019, https://arxiv.org/abs/1910.00962, section 3.2; the defaults are those of NVFlare's filter.

    >>> round(selective_sharing_epsilon(725_061, 0.1)), round(selective_sharing_epsilon(4_700_000, 0.4))
    (7527, 190418)
    """
    answers = fraction * parameters
    return threshold_epsilon + threshold_epsilon * math.pow(2 * answers, 2 / 3) + answers * answer_epsilon
