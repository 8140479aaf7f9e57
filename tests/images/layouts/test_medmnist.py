"""MedMNIST: one file of arrays, pictures of nobody in particular; against numpy's own reading."""

import io
import pickle
import struct
import zipfile

import numpy as np
import pytest
from tests.cases import family

from wardround.errors import DataError
from wardround.images.entries import Target, Task
from wardround.images.layouts.guess import guess_layout
from wardround.images.load import list_entries, load_images, open_layout
from wardround.images.rows.recipe import PictureRecipe, VolumeRecipe
from wardround.types import Persons

SIZES = {"train": 6, "val": 3, "test": 4}


def arrays(shape=(28, 28), classes=2, columns=1, seed=0):
    generator = np.random.default_rng(seed)
    made = {}
    for part, count in SIZES.items():
        made[f"{part}_images"] = generator.integers(0, 256, (count, *shape)).astype(np.uint8)
        labels = np.arange(count * columns) % classes
        made[f"{part}_labels"] = labels.reshape(count, columns).astype(np.uint8)
    return made


def saved(path, made, save=np.savez_compressed):
    save(path, **made)
    return path


def read(path, task=Task.CLASSIFICATION):
    with open_layout("medmnist", path) as store:
        return list_entries("medmnist", store, task), {name: store.read(name) for name in store.names()}


SHAPES = [((28, 28), 2), ((28, 28, 3), 9), ((28, 28, 28), 11), ((64, 64), 2)]


@pytest.mark.parametrize(
    ("shape", "classes", "save"),
    family(
        [(*shape, save) for shape in SHAPES for save in (np.savez, np.savez_compressed)],
        keep=[*((*shape, np.savez) for shape in SHAPES[1:3]), (*SHAPES[0], np.savez_compressed)],
    ),
)
def test_every_picture_has_its_values_its_label_and_its_part(tmp_path, shape, classes, save):
    made = arrays(shape, classes)
    path = saved(tmp_path / "somemnist.npz", made, save)
    listing, contents = read(path)
    is_volume = len(shape) == 3 and shape[-1] != 3
    assert (listing.volumes, listing.persons, listing.target) == (is_volume, Persons.UNNAMED, Target.CLASSES)
    seen = set()
    for entry in listing.entries:
        values = listing.decoder.decode(entry, [contents[entry.file]], [], None).values
        stored = values[0] if len(values) == 1 else values.transpose(1, 2, 0)
        seen.add((entry.split, listing.class_names[entry.label], stored.astype(np.uint8).tobytes()))
    assert seen == {
        (part, str(label), image.tobytes())
        for part in SIZES
        for image, [label] in zip(made[f"{part}_images"], made[f"{part}_labels"], strict=True)
    }
    volumes = VolumeRecipe((16, 16, 16)) if is_volume else None
    images = load_images("medmnist", path, cache_dir=tmp_path / "cache", recipes=[volumes or PictureRecipe(28, 1)])
    assert len(images.patients) == sum(SIZES.values())


def test_a_folder_with_the_file_is_the_file_and_it_is_guessed(tmp_path):
    (tmp_path / "data").mkdir()
    path = saved(tmp_path / "data" / "x.npz", arrays())
    for root in (path, tmp_path / "data"):
        with open_layout(None, root) as store:
            assert guess_layout(store) == "medmnist"
    assert read(tmp_path / "data")[0] == read(path)[0]
    assert read(path, Task.GRADING)[0].target is Target.GRADES


@pytest.mark.parametrize("gone", [0, 3, 5])
def test_a_picture_that_is_taken_away_renames_no_other(tmp_path, gone):
    made = arrays()
    made["train_images"][4] = made["train_images"][2]  # a copy, which is a picture of its own
    before = {entry.file for entry in read(saved(tmp_path / "a.npz", made))[0].entries}
    fewer = {name: np.delete(a, gone, 0) if name.startswith("train") else a for name, a in made.items()}
    after = {entry.file for entry in read(saved(tmp_path / "b.npz", fewer))[0].entries}
    assert (len(before), len(after)) == (13, 12)
    assert after < before


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


def with_member(path, name, content):
    made = arrays()
    with zipfile.ZipFile(path, "w") as archive:
        for key, values in made.items():
            stream = io.BytesIO()
            np.save(stream, values)
            archive.writestr(f"{key}.npy", content if key == name else stream.getvalue())
    return path


def header(shape, descr="|u1"):
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(Trap()),
        header("(6, 28, 28)", "|O") + pickle.dumps([Trap()] * 6),
        header("(6, 28, 28)") + b"short",
        header("(9999999999, 99999, 99999)") + bytes(6),
        header("(-6, 28, 28)") + bytes(6),
        header("(6, 28, 28)", "<f8") + bytes(6 * 28 * 28 * 8),
        header("__import__('os')") + bytes(6),
        b"",
        b"\x93NUMPY\x09\x00",
    ],
)
@pytest.mark.parametrize("name", ["train_images", "test_labels"])
def test_nothing_is_unpickled_and_no_header_is_believed(tmp_path, name, content):
    with pytest.raises(DataError, match="whole numbers") as error:
        read(with_member(tmp_path / "x.npz", name, content))
    assert error.value.code == "data-medmnist"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train_labels": np.zeros((6, 14), np.uint8)}, "multi-label sets, such as chestmnist, are not supported"),
        ({"train_labels": np.zeros((5, 1), np.uint8)}, "one label for each of 6"),
        ({"train_images": np.zeros((6, 784), np.uint8)}, "must be uint8"),
        ({"train_images": np.zeros((6, 28, 28), np.uint16)}, "must be uint8"),
        (
            {f"{part}_labels": np.zeros((count, 1), np.uint8) for part, count in SIZES.items()},
            "two classes or more",
        ),
    ],
)
def test_arrays_of_another_kind_are_one_sentence(tmp_path, changes, said):
    with pytest.raises(DataError, match=said) as error:
        read(saved(tmp_path / "x.npz", arrays() | changes))
    assert (error.value.code == "data-multi-label") == ("multi-label" in said)


def test_other_arrays_and_files_that_are_no_archive_are_refused(tmp_path):
    with pytest.raises(DataError, match="must look like one file"):
        read(saved(tmp_path / "x.npz", {"x": np.zeros(3)}))
    (tmp_path / "y.npz").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match="must be whole"):
        read(tmp_path / "y.npz")
    made = arrays()
    del made["val_labels"]
    with pytest.raises(DataError, match="val_labels"):
        read(saved(tmp_path / "z.npz", made))
