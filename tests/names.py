"""Names of made-up patients, for tests that make a hospital by hand."""

from wardround.randomness import names_of


def names(count):
    """The names of patients "0", "1", ...; the first of them are the same for any count."""
    return names_of(map(str, range(count)))
