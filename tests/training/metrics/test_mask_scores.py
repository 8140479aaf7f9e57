import json

import numpy as np
import pytest
from scipy import ndimage

from wardround.errors import DataError
from wardround.images.entries import Region
from wardround.training.metrics.mask_scores import MaskScores
from wardround.training.metrics.surfaces import overlap

HEAD, TAIL = Region("head", (1,)), Region("tail", (2,))
WHOLE = Region("whole", (1, 2))
SPACING = (0.7, 1.3, 2.9)


def generator(seed=0):
    return np.random.default_rng(seed)


def mask(seed, shape=(10, 11, 12)):
    """Background, head and tail of a made-up organ."""
    rng = np.random.default_rng(seed)
    level = ndimage.gaussian_filter(rng.normal(size=shape), 2.0)
    return np.digitize(level, np.quantile(level, [0.7, 0.85])).astype(np.uint8)


def scores_of(pairs, regions=(HEAD, TAIL, WHOLE), spacing=SPACING):
    scores = MaskScores(regions, spacing)
    for patient, (predicted, true) in pairs:
        scores.add(predicted, true, patient)
    return scores


def result_of(pairs, regions=(HEAD, TAIL, WHOLE), spacing=SPACING, num_resamples=50):
    return scores_of(pairs, regions, spacing).result(generator=generator(), num_resamples=num_resamples)


def test_a_region_is_the_union_of_its_classes():
    predicted, true = mask(0), mask(1)
    metrics = result_of([("p", (predicted, true))])
    for region, found in zip((HEAD, TAIL, WHOLE), metrics.regions, strict=True):
        expected = overlap(np.isin(predicted, region.classes), np.isin(true, region.classes), SPACING, 1.0)
        assert found.name == region.name
        assert (found.dice, found.hd95, found.surface_dice) == pytest.approx(
            (expected.dice, expected.hd95, expected.surface_dice)
        )
        assert found.true_size == pytest.approx(expected.true * np.prod(SPACING))
        assert found.predicted_size == pytest.approx(expected.predicted * np.prod(SPACING))
    assert metrics.dice == pytest.approx(np.mean([region.dice for region in metrics.regions]))
    assert (metrics.unit, metrics.size_unit, metrics.tolerance) == ("mm", "mm3", 1.0)


def test_a_patients_volumes_are_averaged_before_patients_are():
    often, once = (mask(0), mask(1)), (mask(2), mask(2))
    metrics = result_of([("a", often), ("a", often), ("b", once), ("a", often)])
    alone = result_of([("a", often)])
    assert (metrics.n_pictures, metrics.n_patients) == (4, 2)
    for found, single in zip(metrics.regions, alone.regions, strict=True):
        assert single.dice is not None
        assert found.dice == pytest.approx((single.dice + 1) / 2)
        assert found.true_size == pytest.approx((single.true_size + result_size(once, found.name)) / 2)


def result_size(pair, name):
    return next(region.true_size for region in result_of([(0, pair)]).regions if region.name == name)


def test_copies_of_a_patients_volume_do_not_narrow_the_interval():
    pairs = [(i, (mask(i), mask(i + 50))) for i in range(8)]
    once, thrice = result_of(pairs), result_of([pair for pair in pairs for _ in range(3)])
    assert once.dice_interval is not None
    assert thrice.dice_interval is not None
    assert thrice.dice_interval.low == pytest.approx(once.dice_interval.low)
    assert thrice.dice_interval.high == pytest.approx(once.dice_interval.high)


def test_the_interval_is_that_of_drawing_patients_by_hand():
    pairs = [(i // 2, (mask(i), mask(i + 50, shape=(10, 11, 12)))) for i in range(30)]
    metrics = result_of(pairs, regions=(HEAD,), num_resamples=4000)
    dice = np.array([overlap(p == 1, t == 1, SPACING, 1.0).dice for _, (p, t) in pairs]).reshape(15, 2).mean(1)
    expected = np.quantile(dice[generator(1).integers(15, size=(4000, 15))].mean(1), [0.025, 0.975])
    interval = metrics.regions[0].dice_interval
    assert interval is not None
    assert [interval.low, interval.high] == pytest.approx(expected, abs=0.15 * np.ptp(expected))


def test_what_is_empty_is_counted_and_in_no_mean_that_it_cannot_give():
    nothing = np.zeros((6, 7), dtype=np.uint8)
    something = nothing.copy()
    something[1:4, 1:4] = 1
    pairs = {
        "none": (nothing, nothing), "missed": (nothing, something), "missed too": (nothing, something),
        "imagined": (something, nothing), "right": (something, something),
    }  # fmt: skip
    metrics = result_of(pairs.items(), regions=(HEAD, TAIL), spacing=None)
    head, tail = metrics.regions
    assert (head.n_both_empty, head.n_missed, head.n_imagined, head.n_patients) == (1, 2, 1, 4)
    assert head.dice == head.surface_dice == pytest.approx(1 / 4)
    assert head.hd95 == 0.0
    assert (tail.n_both_empty, tail.n_patients, tail.dice, tail.dice_interval) == (5, 0, None, None)
    assert metrics.dice == head.dice
    assert (metrics.unit, metrics.size_unit) == ("pixels", "pixels")
    assert head.true_size == 9 * 3 / 5


def test_one_patient_has_no_interval():
    metrics = result_of([("p", (mask(0), mask(1)))] * 3)
    assert metrics.dice_interval is metrics.regions[0].hd95_interval is None


def test_metrics_survive_json_without_nan():
    nothing = np.zeros((4, 5), dtype=np.uint8)
    metrics = result_of([(0, (nothing, nothing)), (1, (nothing, nothing))], spacing=(1.0, 2.0))
    back = json.loads(json.dumps(metrics.to_json(), allow_nan=False))
    assert back["dice"] is back["regions"][0]["hd95"] is None
    assert back["size_unit"] == "mm2"


def test_groups_have_the_metrics_of_their_own_volumes():
    pairs = [(i, (mask(i), mask(i + 50))) for i in range(12)]
    sites = ["north", "south"] * 6
    found = scores_of(pairs).by_group({"site": sites}, generator=generator(3), num_resamples=20, min_patients=5)[
        "site"
    ]
    rng = generator(3)
    for first, site in enumerate(("north", "south")):
        expected = scores_of(pairs[first::2]).result(generator=rng, num_resamples=20)
        assert found.shown[site] == expected
    json.dumps(found.to_json(), allow_nan=False)


def test_a_test_set_without_masks_is_refused():
    with pytest.raises(DataError, match="at least one mask"):
        result_of([])


@pytest.mark.parametrize(
    ("predicted", "true", "spacing"),
    [((4, 5), (4, 6), None), ((4, 5), (4, 5), (1.0, 1.0, 1.0)), ((4,), (4,), None)],
)
def test_masks_that_do_not_fit_are_refused(predicted, true, spacing):
    with pytest.raises(DataError, match="same 2 or 3 axes"):
        MaskScores([HEAD], spacing).add(np.zeros(predicted, np.uint8), np.zeros(true, np.uint8), 0)


def test_masks_of_other_axes_than_the_first_are_refused():
    scores = scores_of([(0, (mask(0, (4, 5)), mask(1, (4, 5))))], spacing=None)
    with pytest.raises(DataError, match="same 2 or 3 axes"):
        scores.add(mask(0), mask(1), 1)


@pytest.mark.parametrize(
    ("regions", "spacing", "tolerance"),
    [([], None, 1.0), ([HEAD, HEAD], None, 1.0), ([HEAD], (1.0, 0.0), 1.0), ([HEAD], (1.0, np.nan), 1.0),
     ([HEAD], None, -1.0), ([HEAD], None, np.inf)],
)  # fmt: skip
def test_scores_that_mean_nothing_are_refused(regions, spacing, tolerance):
    with pytest.raises(DataError):
        MaskScores(regions, spacing, tolerance)
