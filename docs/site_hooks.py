"""Corrections of what MkDocs makes, where it reads Markdown otherwise than GitHub does, and of its page 404.html."""

import re
from typing import Any


def on_page_markdown(markdown: str, **_: Any) -> str:
    r"""Returns a page without the backslash of `\|` in tables, which the builder would print within code."""
    return re.sub(r"^\|.*$", lambda row: row[0].replace(r"\|", "|"), markdown, flags=re.MULTILINE)


def on_template_context(context: dict[str, Any], *, template_name: str, config: Any) -> dict[str, Any]:
    """Returns the context of a template; `404.html` asks for its files where it lies, as every other page does.

    Without a `site_url` MkDocs takes the root of the server, which is another place from disk and under a sub path. All
    pages of the site lie in one folder, so a link to a missing one leads there as well. A missing page in a folder
    finds its files where the site was built with `SITE_URL`.
    """
    if template_name == "404.html" and not config.site_url:
        context["base_url"] = "."
    return context
