"""The error of this program: one sentence for the person who runs it."""


class CourierError(Exception):
    """A setting or a file is wrong; the sentence names it, and says what to do."""
