"""The generated pictures: deterministic, and without a shortcut."""

from dataclasses import replace

import numpy as np
import pytest

from wardround.errors import DataError
from wardround.images.layouts.phantom import PhantomOptions, draw_phantom, list_phantom, phantom_digests

SMALL = PhantomOptions(patients=12, max_images=3, sites=3, image_size=32, seed=3)


def digests(options):
    return phantom_digests(options, [entry.file for entry in list_phantom(options).entries])


def drawn(options):
    return np.stack(list(draw_phantom(options)))


def test_the_same_options_give_the_same_pictures():
    np.testing.assert_array_equal(drawn(SMALL), drawn(SMALL))


def test_another_seed_gives_other_pictures():
    first = next(draw_phantom(SMALL))
    assert not np.array_equal(first, next(draw_phantom(replace(SMALL, seed=4))))


def test_a_picture_does_not_depend_on_how_many_patients_there_are():
    more = replace(SMALL, patients=20)
    few = drawn(SMALL)
    np.testing.assert_array_equal(few, drawn(more)[: len(few)])
    assert digests(SMALL) == digests(more)[: len(few)]


def test_every_picture_has_an_entry_and_a_digest_of_its_own():
    entries = list_phantom(SMALL).entries
    assert len(entries) == len(drawn(SMALL)) == len(set(digests(SMALL)))
    assert len({entry.patient for entry in entries}) == SMALL.patients


def test_pictures_are_grey_bytes_of_the_size_asked_for():
    pictures = drawn(SMALL)
    assert pictures.dtype == np.uint8
    assert pictures.shape[1:] == (1, 32, 32)
    assert pictures.std(axis=(1, 2, 3)).min() > 20


def test_images_of_one_patient_share_label_and_site_and_differ_in_pose():
    listing = list_phantom(SMALL)
    pictures = drawn(SMALL)
    facts: dict[str | None, tuple[int, str | None, list[np.ndarray]]] = {}
    for entry, picture in zip(listing.entries, pictures, strict=True):
        label, site, others = facts.setdefault(entry.patient, (entry.label, entry.site, []))
        assert (label, site) == (entry.label, entry.site)
        assert not any(np.array_equal(picture, other) for other in others)
        others.append(picture)
    assert any(len(others) > 1 for _, _, others in facts.values())


def test_every_site_and_both_classes_occur():
    entries = list_phantom(replace(SMALL, patients=60)).entries
    assert {entry.site for entry in entries} == {"site-1", "site-2", "site-3"}
    assert {entry.label for entry in entries} == {0, 1}


@pytest.mark.parametrize(
    ("name", "value"),
    [("patients", 1), ("max_images", 0), ("sites", 0), ("image_size", 8), ("seed", -1), ("prevalence", 1.0)],
)
def test_an_option_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(DataError, match=f"{name} of a phantom must"):
        replace(SMALL, **{name: value})


def grouped_auroc(features, labels, people, first_test, *, strength):
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train = people < first_test
    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300))
    model.fit(features[train], labels[train])
    return roc_auc_score(labels[~train], model.predict_proba(features[~train])[:, 1])


@pytest.mark.slow
def test_pixels_and_brightness_say_little_and_local_edges_say_much():
    from skimage.feature import hog

    options = PhantomOptions(patients=1600, max_images=3)
    entries = list_phantom(options).entries
    pictures = drawn(options)[:, 0].astype(np.float32) / 255
    labels = np.array([entry.label for entry in entries])
    people = np.array([int(str(entry.patient).split("-")[1]) for entry in entries])
    border = np.concatenate(
        [pictures[:, :4].reshape(len(labels), -1), pictures[:, -4:].reshape(len(labels), -1)], 1
    )
    six = np.stack(
        [
            pictures.mean((1, 2)),
            pictures.std((1, 2)),
            np.median(pictures, (1, 2)),
            border.mean(1),
            border.std(1),
            (pictures > 0.9).mean((1, 2)),
        ],
        axis=1,
    )
    assert grouped_auroc(six, labels, people, 1200, strength=1.0) < 0.65
    coarse = pictures.reshape(-1, 32, 2, 32, 2).mean((2, 4)).reshape(len(labels), -1)
    assert grouped_auroc(coarse, labels, people, 1200, strength=0.01) < 0.80
    edges = np.stack([hog(picture, 9, (8, 8), (2, 2)) for picture in pictures])
    assert grouped_auroc(edges, labels, people, 1200, strength=0.001) > 0.88
