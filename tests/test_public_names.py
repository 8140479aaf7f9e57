"""The names that the top of the package offers exist, and each says what it is."""

import wardround

NAMES = wardround.__all__


def test_every_public_name_exists_and_says_what_it_is():
    assert len(set(NAMES)) == len(NAMES)
    for name in NAMES:
        found = getattr(wardround, name)
        assert name == "__version__" or found.__doc__, name


def test_the_version_is_that_of_the_installed_package():
    from importlib import metadata

    assert wardround.__version__ == metadata.version("wardround")
