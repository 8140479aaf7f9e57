import pytest

from wardround.boundary.extras import needed
from wardround.errors import MissingExtra


def test_a_package_that_is_not_installed_is_one_sentence_with_the_line_that_installs_it():
    with (
        pytest.raises(MissingExtra, match=r"^A page needs absent, which .*; or none\. .*'wardround\[report\]'\.$"),
        needed("report", "A page", "or none"),
    ):
        raise ModuleNotFoundError("No module named 'absent.part'", name="absent.part")


@pytest.mark.parametrize("mistake", [ImportError("x", name="wardround.report.page"), ValueError("x")])
def test_a_mistake_of_ours_is_no_missing_package(mistake):
    with pytest.raises(type(mistake), match="x"), needed("report", "A page"):
        raise mistake
