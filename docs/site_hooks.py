"""Corrections of pages before MkDocs reads them, where it reads Markdown otherwise than GitHub does."""

import re
from typing import Any


def on_page_markdown(markdown: str, **_: Any) -> str:
    r"""Returns a page without the backslash of `\|` in tables, which the builder would print within code."""
    return re.sub(r"^\|.*$", lambda row: row[0].replace(r"\|", "|"), markdown, flags=re.MULTILINE)
