"""Augmentation: what it may change, how far, and that no picture depends on its neighbours."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.errors import DataError
from wardround.training.augment.augmentation import AXES, LIMITS, PUBLIC_GREY, Augmentation, Axis, draws_of, views

SPACES = [(9, 12), (6, 5, 8)]
FLIPS = {2: (Axis.VERTICAL, Axis.HORIZONTAL), 3: (Axis.X, Axis.Y, Axis.Z)}


def batch(space, *, count=6, channels=2, seed=0):
    generator = np.random.default_rng(seed)
    pictures = torch.from_numpy(generator.integers(0, 256, (count, channels, *space), dtype=np.uint8))
    masks = torch.from_numpy(generator.integers(0, 4, (count, *space), dtype=np.uint8))
    return pictures, masks


def everything(space, **changed):
    options = {
        "flip": FLIPS[len(space)], "rotate": 20.0, "scale": 0.1, "shift": 0.1, "patch": min(space) - 1,
        "brightness": 0.1, "contrast": 0.2, "noise": 0.02,
    } | changed  # fmt: skip
    return Augmentation(**options)


def applied(augment, pictures, masks, **named):
    """Untyped: a mask that went in comes out."""
    return augment(pictures, masks, **named)


def blobs(space, *, count=40, seed=0):
    """Masks of a class with smooth edges, as masks and as pictures of 0 and 255."""
    generator = np.random.default_rng(seed)
    middle = generator.uniform(0.3, 0.7, (count, len(space), *[1] * len(space))) * np.reshape(
        space, (-1, *[1] * len(space))
    )
    far = np.square(np.indices(space)[None] - middle).sum(axis=1)
    masks = (far < (0.3 * min(space)) ** 2).astype(np.uint8)
    return torch.from_numpy(masks[:, None] * np.uint8(255)), torch.from_numpy(masks)


@pytest.mark.parametrize("space", SPACES)
def test_no_change_changes_no_bit(space):
    pictures, masks = batch(space)
    nothing = Augmentation()
    assert nothing.is_identity
    made, classes = applied(nothing, pictures, masks, keys=np.arange(6, dtype=np.uint64), seed=1)
    assert torch.equal(made, pictures)
    assert torch.equal(classes, masks)
    assert torch.equal(nothing.centre(pictures)[0], pictures)


@pytest.mark.parametrize("space", SPACES)
def test_pictures_that_came_are_not_written_to(space):
    pictures, masks = batch(space)
    before = pictures.clone(), masks.clone()
    everything(space, patch=None)(pictures, masks, keys=np.arange(6, dtype=np.uint64), seed=1)
    assert torch.equal(pictures, before[0])
    assert torch.equal(masks, before[1])


@pytest.mark.parametrize("space", SPACES)
def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(space):
    pictures, masks = batch(space)
    augment = everything(space)
    first, second, other = (
        augment(pictures, masks, keys=np.arange(6, dtype=np.uint64), seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("space", [*SPACES, (33, 47)])
def test_one_patient_more_or_less_moves_no_other_patients_picture(space):
    pictures, masks = batch(space, count=9)
    augment, keys = everything(space), np.arange(100, 109, dtype=np.uint64)
    whole = augment(pictures, masks, keys=keys, seed=3)
    for kept in ([0, 1, 2], [8], [1, 2, 3, 4, 5, 6, 7, 8], [5, 0, 7]):
        part = augment(pictures[kept], masks[kept], keys=keys[kept], seed=3)
        assert torch.equal(part[0], whole[0][kept])
        assert torch.equal(part[1], whole[1][kept])


def test_another_patients_pixels_move_nothing():
    pictures, masks = batch((9, 12))
    changed = pictures.clone()
    changed[0] = 255 - changed[0]
    augment = everything((9, 12))
    one, other = (
        augment(them, masks, keys=np.arange(6, dtype=np.uint64), seed=3)[0] for them in (pictures, changed)
    )
    assert torch.equal(one[1:], other[1:])
    assert not torch.equal(one[0], other[0])


def test_pieces_in_memory_change_nothing(monkeypatch):
    pictures, masks = batch((9, 12))
    augment = everything((9, 12))
    whole = augment(pictures, masks, keys=np.arange(6, dtype=np.uint64), seed=3)
    monkeypatch.setattr("wardround.training.augment.augmentation._VALUES_AT_ONCE", 1)
    pieces = augment(pictures, masks, keys=np.arange(6, dtype=np.uint64), seed=3)
    assert torch.equal(whole[0], pieces[0])
    assert torch.equal(whole[1], pieces[1])


def test_global_generators_are_neither_read_nor_moved():
    pictures, masks = batch((9, 12))
    made = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        before = torch.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"].copy()
        made.append(everything((9, 12))(pictures, masks, keys=np.arange(6, dtype=np.uint64), seed=3)[0])
        assert torch.equal(torch.get_rng_state(), before[0])
        assert (np.random.get_state(legacy=False)["state"]["key"] == before[1]).all()
    assert torch.equal(*made)


@pytest.mark.parametrize("space", SPACES)
def test_a_flip_undoes_itself_and_moves_the_mask_alike(space):
    _, masks = batch(space, count=32)
    pictures = masks[:, None]
    augment = Augmentation(flip=FLIPS[len(space)])
    once, classes = applied(augment, pictures, masks, keys=np.arange(32, dtype=np.uint64), seed=5)
    assert torch.equal(once[:, 0], classes)
    assert not torch.equal(once, pictures)
    assert torch.equal(augment(once, None, keys=np.arange(32, dtype=np.uint64), seed=5)[0], pictures)


@pytest.mark.parametrize(("axis", "dimension"), [(Axis.VERTICAL, 2), (Axis.HORIZONTAL, 3)])
def test_only_the_axis_that_is_named_is_flipped_and_about_half_the_time(axis, dimension):
    pictures, _ = batch((4, 5), count=400)
    made, _ = Augmentation(flip=(axis,))(pictures, None, keys=np.arange(400, dtype=np.uint64), seed=5)
    is_flipped = (made == pictures.flip(dimension)).flatten(1).all(dim=1)
    is_same = (made == pictures).flatten(1).all(dim=1)
    assert (is_flipped ^ is_same).all()
    assert abs(int(is_flipped.sum()) - 200) < 50  # five standard deviations


@pytest.mark.parametrize("space", SPACES)
def test_a_patch_is_a_piece_of_its_picture_and_of_its_mask(space):
    _, masks = batch(space, count=20)
    made, classes = applied(
        Augmentation(patch=4), masks[:, None], masks, keys=np.arange(20, dtype=np.uint64), seed=2
    )
    assert made.shape == (20, 1, *[4] * len(space))
    assert torch.equal(made[:, 0], classes)
    for patch, mask in zip(classes, masks, strict=True):
        places = mask
        for axis in range(len(space)):
            places = places.unfold(axis, 4, 1)
        assert (places == patch).flatten(len(space)).all(dim=-1).any()


def test_every_corner_of_a_patch_is_drawn():
    pictures = torch.arange(16, dtype=torch.uint8).reshape(1, 1, 4, 4).expand(600, 1, 4, 4)
    made, _ = Augmentation(patch=2)(pictures, None, keys=np.arange(600, dtype=np.uint64), seed=2)
    assert set(made[:, 0, 0, 0].tolist()) == {0, 1, 2, 4, 5, 6, 8, 9, 10}


@pytest.mark.parametrize("space", SPACES)
def test_the_centre_patch_is_the_middle_whatever_else_is_asked_for(space):
    pictures, masks = batch(space)
    box = tuple(slice((side - 4) // 2, (side - 4) // 2 + 4) for side in space)
    made, classes = applied(everything(space, patch=4).centre, pictures, masks)
    assert torch.equal(made, pictures[(..., *box)])
    assert torch.equal(classes, masks[(..., *box)])


@pytest.mark.parametrize("space", [(24, 31), (14, 12, 17)])
@pytest.mark.parametrize("patch", [None, 10])
def test_a_picture_that_is_its_mask_stays_so_wherever_its_edge_is_not(space, patch):
    # The nearest of 2^d neighbours weighs at least 2^-d: what is brighter than the others together is its class.
    pictures, masks = blobs(space)
    augment = Augmentation(FLIPS[len(space)], 25.0, 0.2, 0.2, patch)
    made, classes = applied(augment, pictures, masks, keys=np.arange(len(masks), dtype=np.uint64), seed=4)
    share = 255 * 2.0 ** -len(space)
    assert classes.max() == 1
    assert (classes[made[:, 0] > 255 - share + 1] == 1).all()
    assert (classes[made[:, 0] < share - 1] == 0).all()
    assert (made[:, 0] > 200).any()


@settings(deadline=None)
@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 255), st.integers(0, 1 << 62))
def test_light_stays_within_its_range(brightness, contrast, value, seed):
    pictures = torch.full((3, 1, 2, 2), value, dtype=torch.uint8)
    made, _ = Augmentation(brightness=brightness, contrast=contrast)(
        pictures, None, keys=np.arange(3, dtype=np.uint64), seed=seed
    )
    assert made.dtype == torch.uint8
    reach = 255 * brightness + abs(value - PUBLIC_GREY) * contrast + 0.5
    assert (abs(made.float() - value) <= reach + 1e-3).all()  # float32


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 180), st.floats(0, 0.9), st.floats(0, 1), st.integers(0, 1 << 62))
def test_moving_shows_no_value_that_was_not_there(rotate, scale, shift, seed):
    pictures = torch.from_numpy(np.random.default_rng(0).integers(80, 90, (4, 1, 7, 9), dtype=np.uint8))
    augment = Augmentation(rotate=rotate, scale=scale, shift=shift)
    made, _ = augment(pictures, None, keys=np.arange(4, dtype=np.uint64), seed=seed)
    assert made.shape == pictures.shape
    assert made.max() < 90
    assert made.min() >= 80


@settings(deadline=None)
@given(st.floats(0, 0.4), st.integers(0, 1 << 62))
def test_a_shift_moves_no_further_than_its_part_of_the_side(shift, seed):
    pictures = torch.zeros((5, 1, 21, 21), dtype=torch.uint8)
    pictures[..., 10, 10] = 255
    made, _ = Augmentation(shift=shift)(pictures, None, keys=np.arange(5, dtype=np.uint64), seed=seed)
    lit = made[:, 0].nonzero()[:, 1:]
    assert (abs(lit - 10) <= math.ceil(shift * 21)).all()


def test_noise_has_the_standard_deviation_asked_for():
    pictures = torch.full((8, 1, 64, 64), 128, dtype=torch.uint8)
    made, _ = Augmentation(noise=0.05)(pictures, None, keys=np.arange(8, dtype=np.uint64), seed=6)
    wanted = math.sqrt((0.05 * 255) ** 2 + 1 / 12)  # and that of rounding
    assert float(made.double().std()) == pytest.approx(wanted, rel=0.02)  # five standard errors
    assert float(made.double().mean()) == pytest.approx(128, abs=0.4)


def test_one_option_does_not_move_the_draws_of_another():
    pictures, _ = batch((9, 12))
    alone = Augmentation(patch=4)(pictures, None, keys=np.arange(6, dtype=np.uint64), seed=1)[0]
    flips = Augmentation(flip=(Axis.HORIZONTAL,))
    both = Augmentation(patch=4, flip=(Axis.HORIZONTAL,))
    flipped = flips(pictures, None, keys=np.arange(6, dtype=np.uint64), seed=1)[0]
    expected = Augmentation(patch=4)(flipped, None, keys=np.arange(6, dtype=np.uint64), seed=1)[0]
    assert torch.equal(both(pictures, None, keys=np.arange(6, dtype=np.uint64), seed=1)[0], expected)
    assert alone.shape == expected.shape


def test_rows_views_and_seeds_each_have_draws_of_their_own():
    names = [(seed, row, view) for seed in (0, 1, 2**63) for row in (0, 1, 2) for view in (0, 1)]
    drawn = [draws_of(*name).uniform for name in names]
    assert len({one.tobytes() for one in drawn}) == len(names)
    assert all(((one >= 0) & (one < 1)).all() for one in drawn)


def test_draws_are_the_same_in_every_version():
    assert draws_of(1, 2, 3).uniform[:3].tolist() == [0.06344102965932141, 0.707504754819708, 0.27756060377104574]


def test_every_picture_is_seen_so_often_and_stays_with_its_patient():
    of, view = views(3, 2)
    assert view.tolist() == [0, 1, 0, 1, 0, 1]
    assert of.tolist() == [0, 0, 1, 1, 2, 2]
    assert views(3, 1)[0].tolist() == [0, 1, 2]


def test_views_of_one_picture_differ_and_the_first_is_the_one_without_views():
    pictures, masks = batch((9, 12))
    augment, keys = everything((9, 12), multiplicity=3), np.arange(6, dtype=np.uint64)
    of, view = views(6, augment.multiplicity)
    made, _ = augment(pictures[of], masks[of], keys=keys[of], seed=1, view=view)
    assert torch.equal(made[::3], augment(pictures, masks, keys=keys, seed=1)[0])
    assert not torch.equal(made[::3], made[1::3])
    assert not augment.is_identity


def test_nobody_in_a_batch_is_nobody_after_it():
    pictures, masks = batch((9, 12), count=0)
    made, classes = everything((9, 12), patch=4)(pictures, masks, keys=np.arange(0, dtype=np.uint64), seed=1)
    assert made.shape == (0, 2, 4, 4)
    assert classes is not None
    assert classes.shape == (0, 4, 4)


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("value", [-0.1, 1e6, float("nan")])
def test_a_range_that_is_none_is_refused(name, value):
    with pytest.raises(DataError, match=f"{name} must lie between 0"):
        Augmentation(**{name: value})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"patch": 0}, "patch must be a whole number"),
        ({"multiplicity": 0}, "multiplicity must be"),
        ({"flip": (Axis.X, Axis.X)}, "once"),
        ({"spacing": (1.0, 0.0)}, "millimetres"),
    ],
)
def test_an_option_that_does_not_hold_is_refused(options, said):
    with pytest.raises(DataError, match=said):
        Augmentation(**options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"patch": 10}, "at most the shortest side of the pictures, 9, got 10"),
        ({"flip": (Axis.Z,)}, "vertical, horizontal.*got z"),
        ({"spacing": (1.0, 1.0, 1.0)}, "spacing must have 2"),
    ],
)
def test_what_the_pictures_do_not_have_is_refused(options, said):
    pictures, _ = batch((9, 12))
    with pytest.raises(DataError, match=said):
        Augmentation(**options)(pictures, None, keys=np.arange(6, dtype=np.uint64), seed=1)


@pytest.mark.parametrize("numbers", [(-1, 0, 0), (1 << 64, 0, 0), (0, -1, 0), (0, 0, -1)])
def test_numbers_that_name_no_stream_are_refused(numbers):
    with pytest.raises(DataError, match="64 bits"):
        draws_of(*numbers)


def test_the_axes_have_the_order_of_the_array():
    assert AXES == FLIPS
