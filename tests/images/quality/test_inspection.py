"""Each planted fault is found, and none is found in a sound set."""

import numpy as np

from wardround.images.quality.facts import FileFacts
from wardround.images.quality.inspection import inspect
from wardround.images.quality.notice import Level


def notices(made, **options):
    return {notice.code: notice for notice in inspect(made.taken(), **options).notices}


def test_a_sound_set_gives_nothing_to_look_at(made):
    seen = [notice for notice in inspect(made.taken()).notices if notice.level is not Level.NOTE]
    assert seen == []


def test_sound_volumes_give_nothing_to_look_at(made_volumes):
    seen = [notice for notice in inspect(made_volumes.taken()).notices if notice.level is not Level.NOTE]
    assert seen == []


def test_the_gravest_notice_stands_first_and_each_says_what_it_means_and_what_to_do(made):
    made.add(np.zeros((1, 64, 64)))
    made.change(0, split="train", patient="both")
    made.change(5, split="test", patient="both")
    found = inspect(made.taken()).notices
    order = [list(Level).index(notice.level) for notice in found]
    assert order == sorted(order)
    assert found[0].code == "straddling"
    assert all(notice.what and notice.meaning.endswith(".") and notice.advice.endswith(".") for notice in found)


def test_a_patient_in_both_published_parts_stops_and_names_the_way_out(made):
    made.change(0, split="train", patient="both")
    made.change(5, split="test", patient="both")
    found = notices(made)["straddling"]
    assert (found.level, found.count) == (Level.STOP, 1)
    assert "test = 'patients'" in found.advice
    assert set(found.rows[0]) == {0, 5}


def test_a_picture_under_two_patients_stops(made):
    made.add(made.pixels[0], digest=made.digests[0])
    found = notices(made)
    assert found["shared_pictures"].level is Level.STOP
    assert found["repeated_pictures"].count == 1
    assert "lookalikes" not in found


def test_a_picture_with_two_labels_is_found(made):
    made.add(
        made.pixels[0],
        digest=made.digests[0],
        label=1 - made.entries[0].label,
        patient=made.entries[0].patient,
    )
    found = notices(made)
    assert found["conflicting_duplicates"].count == found["two_labels"].count == 1


def test_an_unreadable_file_is_named(made):
    row = made.add(np.zeros((1, 64, 64)))
    made.unreadable = frozenset({row})
    assert notices(made)["unreadable"].names == (f"added/{row}.png",)


def test_what_the_reader_noted_is_passed_on(made):
    made.notes = ("3 files were passed over",)
    assert notices(made)["reader_0"].what == made.notes[0]


def test_a_class_that_a_hospital_lacks_is_named(made):
    for row, entry in enumerate(made.entries):
        if entry.label == 1:
            made.change(row, site="site-1")
    assert notices(made)["class_missing_at_site"].names == ("site-2 has no lesion",)


def test_a_class_of_few_patients_is_found(made):
    made.class_names = ("clear", "lesion", "rare")
    made.add(255 - made.pixels[0], label=2)
    assert notices(made)["small_class_2"].count == 1


def test_a_set_in_which_nobody_has_two_pictures_is_noted(made):
    for row in range(len(made.entries)):
        made.change(row, patient=f"one-{row}")
    assert notices(made)["one_image_each"].level is Level.NOTE


def test_brightness_that_goes_with_the_class_is_found_and_the_figure_is_said(made):
    ill = np.array([entry.label for entry in made.entries]) == 1
    made.pixels = np.clip(0.7 * made.pixels + 40 * ill[:, None, None, None], 0, 255).astype(np.uint8)
    found = notices(made)["shortcut"]
    assert found.level is Level.LOOK
    assert "a model must beat 0.9" in found.meaning or "a model must beat 1.0" in found.meaning


def test_file_sizes_that_go_with_the_class_are_found(made):
    sizes = {entry.file: 1000 + 900 * entry.label + row for row, entry in enumerate(made.entries)}
    seen = inspect(made.taken(), facts=FileFacts(num_bytes=sizes))
    assert [shortcut.name for shortcut in seen.shortcuts] == ["borders", "linear", "squares", "file_size"]
    assert seen.shortcuts[3].auroc > 0.99
    assert seen.shortcuts[3].is_there
    assert not seen.shortcuts[0].is_there


def test_what_was_not_looked_for_is_said(made, made_volumes):
    assert any("sizes" in sentence for sentence in inspect(made.taken()).not_checked)
    unseen = " ".join(inspect(made_volumes.taken()).not_checked)
    assert "spacing" in unseen
    assert "only masks" in unseen


def test_counts_are_those_of_the_set(made):
    seen = inspect(made.taken())
    assert seen.balance.patients == 40
    assert seen.balance.images == len(made.entries) == sum(one.images for one in seen.balance.classes)
    assert sum(patients for _, patients in seen.balance.images_per_patient) == 40
    assert sum(images * patients for images, patients in seen.balance.images_per_patient) == len(made.entries)
    assert sum(site.patients for site in seen.balance.sites) == 40


def test_slices_of_one_volume_count_once(made_volumes):
    for row in range(0, 12, 3):
        for slice_row in (row + 1, row + 2):
            made_volumes.change(slice_row, file=made_volumes.entries[row].file, patient=f"person-{row}")
            made_volumes.digests[slice_row] = made_volumes.digests[row]
    made_volumes.masks[0:2] = 0
    found = inspect(made_volumes.taken())
    assert found.balance.images == found.balance.patients == 4
    assert "empty_mask" not in {notice.code for notice in found.notices}


def test_the_json_names_no_file_and_no_patient(made):
    made.add(np.zeros((1, 64, 64)), file="secret.png", patient="secret")
    assert "secret" not in repr(inspect(made.taken()).to_json())


def test_progress_is_told(made):
    told = []
    inspect(made.taken(), progress=lambda done, of: told.append((done, of)))
    assert told[-1] == (len(made.entries), len(made.entries))


def test_a_set_of_constant_pictures_is_found_to_be_one(made):
    made.pixels[:] = 7
    assert notices(made)["constant"].count == len(made.entries)
    assert "all of the set are almost constant" in notices(made)["constant"].what
