"""Commands that must be refused, and sets of pictures and runs that they are about."""

import shutil

import pytest
from tests.simulation.bad_input.refusals import refusal

from wardround.errors import WardroundError


@pytest.fixture
def refused(wardround, tmp_path):
    """Runs a study file that must be refused before anything is written; the sentence it was refused with."""
    out = tmp_path / "out"

    def run(path, *options, kind=WardroundError, code=None):
        message = refusal(wardround("run", path, "--out", out, *options), kind, code)
        assert not out.exists(), "a refused study leaves no folder"
        return message

    return run


@pytest.fixture
def pictures(make_pictures, tmp_path):
    return make_pictures(tmp_path / "pictures")


@pytest.fixture
def of_pictures(study_file, pictures):
    """A study file of the folder of pictures."""
    return lambda **sections: study_file(data={"layout": "folder", "path": str(pictures)}, **sections)


@pytest.fixture
def earlier(finished, tmp_path):
    """A finished run in the folder where commands are told to write."""
    shutil.copytree(finished, tmp_path / "out")
    return tmp_path / "out"
