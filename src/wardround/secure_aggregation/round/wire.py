"""Messages as bytes: eight that name format and version, then the canonical bytes of the fields.

A message is read only if writing what was read gives the same bytes, so that nothing has two forms. What arrives was
written by anybody: lengths are checked before anything is taken, and nothing but data comes out.
"""

from wardround.errors import FederationError
from wardround.secure_aggregation.canonical import Field, canonical, parsed


def to_wire(form: bytes, fields: Field) -> bytes:
    """The bytes of a message."""
    return form + canonical(fields)


def from_wire(content: bytes, form: bytes, most_bytes: int, what: str) -> Field:
    """The fields of a message; lists come as tuples.

    `form` is eight bytes that name format and version; `what` names the message for the error.

    Raises:
        FederationError: these are not the bytes of such a message, not all of them, or too many.
    """
    try:
        if not isinstance(content, bytes) or len(content) > most_bytes:
            raise ValueError
        fields = parsed(content[len(form) :])
        if to_wire(form, fields) != content:
            raise ValueError
    except ValueError:
        raise malformed(what) from None
    return fields


def malformed(what: str) -> FederationError:
    """That something came which is no such message; its contents are not repeated."""
    return FederationError(
        f"{what} must be whole and in the format that this version sends, and is not; ask for the same bytes again."
    )
