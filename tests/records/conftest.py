"""The folder of a run, for the tests of the room."""

import pytest

from wardround.records.folder import RunFolder


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder.create(tmp_path / "run")
    yield folder
    folder.close()
