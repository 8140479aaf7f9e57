"""Pages in one self-contained file each: one frame and one style sheet, no script, no request, and text as text.

Jinja2 is an extra: this module is imported within `extras.needed`.
"""

from collections.abc import Callable
from functools import cache

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, Template

from wardround.boundary.text import counted


def rendered(room: str, template: str, /, *filters: Callable[..., str], **values: object) -> str:
    """Returns a page. Values are text in it, never markup, but for `Markup`.

    Args:
        room: package that has the template.
        template: fills the blocks of `frame.html.j2`.
        filters: of the template, by their names, beside `capitalize_first` and `counted`.
        values: of the template.
    """
    return _template(room, template, filters).render(values)


def prepared(room: str, template: str, /, *filters: Callable[..., str]) -> None:
    """Compiles a template, which `rendered` then finds; its values are the same."""
    _template(room, template, filters)


@cache
def _template(room: str, name: str, filters: tuple[Callable[..., str], ...]) -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        loader=ChoiceLoader([PackageLoader(room, ""), PackageLoader(__package__, "")]),
    )  # fmt: skip
    environment.filters |= {each.__name__: each for each in (capitalize_first, counted, *filters)}
    return environment.get_template(name)


def capitalize_first(text: str) -> str:
    """Returns a text whose first letter is a capital; the rest stays as it is, unlike with `str.capitalize`.

    >>> capitalize_first("one noised count, by PLD")
    'One noised count, by PLD'
    """
    return text[:1].upper() + text[1:]
