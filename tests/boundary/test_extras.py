import pytest

from wardround.boundary.extras import needed
from wardround.errors import MissingExtra


def test_a_package_that_is_not_installed_is_one_sentence_with_the_line_that_installs_it():
    with (
        pytest.raises(MissingExtra, match=r"^A page needs absent, which .*; or none\. .*'wardround\[report\]'\.$"),
        needed("report", "A page", "or none"),
    ):
        raise ModuleNotFoundError("No module named 'absent.part'", name="absent.part")


def test_a_package_that_is_installed_and_broken_is_not_said_to_be_missing():
    broken = ImportError("cannot import name 'x' from 'there'", name="there")
    with (
        pytest.raises(MissingExtra, match=r"^A page needs there, which cannot be imported \(cannot import name"),
        needed("report", "A page"),
    ):
        raise broken


@pytest.mark.parametrize("mistake", [ImportError("x", name="wardround.report.page"), ValueError("x")])
def test_a_mistake_of_ours_is_no_missing_package(mistake):
    with pytest.raises(type(mistake), match="x"), needed("report", "A page"):
        raise mistake
