"""A view as one page: no script, nothing from elsewhere, and no figure that `/status.json` does not have.

Every text goes through `_tag`, which escapes it. Bars and curves are SVG with attributes only, as the page's policy
allows no style but the one sheet.
"""

import math
from collections.abc import Iterator, Sequence
from html import escape
from importlib import resources

from wardround.accounting.statement import format_epsilon
from wardround.boundary.text import counted, shown
from wardround.watching.views import CoordinatorView, HospitalSeen, HospitalView, RunView, View
from wardround.watching.words import spent_words

STYLE = (resources.files("wardround.watching") / "page.css").read_text(encoding="utf-8")
"""The one style sheet of the page; its policy allows this text and no other."""

_WIDTH, _HEIGHT = 640, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 60, 12, 30
_GOOD, _BAD = ("answered", "computing", "runs"), ("away", "failed", "slow", "does not run")


class _Markup(str):
    """Text that is markup already."""

    __slots__ = ()


def html_of(view: View) -> str:
    """Returns a view as a page, which loads itself anew every five seconds."""
    match view:
        case RunView():
            kicker, title, parts = "Wardround · a run on this machine", view.study, _run(view)
        case CoordinatorView():
            kicker, title, parts = "Wardround · a run between hospitals", view.study, _coordinator(view)
        case HospitalView():
            kicker, title, parts = "Wardround · a hospital", view.hospital, _hospital(view)
    body = _tag(
        "main",
        _tag("header", _tag("p", kicker, class_="kicker"), _tag("h1", title)),
        _tag("div", *parts, class_="cards"),
        _tag(
            "footer", "This page loads itself anew every five seconds. The same is at /status.json and /metrics."
        ),
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="5">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><style>{STYLE}</style>'
        f"{_tag('title', f'{title} · Wardround')}</head><body>{body}</body></html>"
    )


def _run(view: RunView) -> Iterator[_Markup]:
    steps = (view.done, view.total) if view.total else (view.round, view.rounds)
    left = "" if view.seconds_left is None else f", about {view.seconds_left:.0f} s left"
    so_far = f": {view.done} of {view.total}{left}" if view.total else ""
    yield _rounds(view.round, view.rounds, f"{view.stage}{so_far}", steps)
    yield _epsilon(view)
    if view.figures:
        rows = (_tag("div", _tag("dt", title), _tag("dd", f"{value:.3f}")) for title, value in view.figures)
        note = f"On the {view.measured_on} set, released without protection."
        yield _card("Figures", _tag("dl", *rows), *_curve(view), _tag("p", note, class_="note"), wide=True)
    if view.round:
        answered = view.hospitals - len(view.missing)
        away = f"Away: {', '.join(view.missing)}." if view.missing else "None was away."
        of = _small(f"of {counted(view.hospitals, 'hospital')}, round {view.round}")
        yield _card("Who answered", _tag("p", f"{answered} ", of, class_="big"), _tag("p", away), wide=True)


def _coordinator(view: CoordinatorView) -> Iterator[_Markup]:
    yield _rounds(view.round, view.rounds, "ended" if view.is_over else view.stage, (view.round, view.rounds))
    yield _epsilon(view)
    rows = [_seen(each) for each in view.hospitals]
    header = (
        "Hospital",
        "State",
        "For",
        "Last seen",
        "Asked for",
        "Answers",
        "Lost connections",
        "Sent",
        "Received",
    )
    yield _card("Who answered", _table(header, rows, 5), wide=True)
    yield from _by_work(view)


def _hospital(view: HospitalView) -> Iterator[_Markup]:
    state = "runs" if view.is_running else "does not run"
    last = f"Last answer {view.last}, round {view.round}." if view.last else "No answer yet."
    counts = f"{counted(view.answers, 'answer')}, {view.refusals} of them refusals or failures; "
    counts += f"{_bytes(view.bytes_in)} in, {_bytes(view.bytes_out)} out."
    yield _card("The agent", _tag("p", _state(state), class_="big"), _tag("p", last), _tag("p", counts))
    for study in view.studies:
        most = f"of {format_epsilon(study.epsilon_most)} at delta = {study.delta:g} for one patient"
        left = f"{max(0.0, study.epsilon_most - study.epsilon_spent):.3g} left"
        own = "; own figures in evaluation/" if study.has_own_figures else ""
        spent = format_epsilon(study.epsilon_spent)
        yield _card(
            f"Study {study.name}",
            _tag("p", f"epsilon {spent} ", _small(most), class_="big"),
            _bar(study.epsilon_spent, study.epsilon_most, f"epsilon spent: {spent} {most}", "bar spent"),
            _tag("p", f"{left}{own}. Digest {study.digest[:12]}."),
        )
    yield from _by_work(view)


def _rounds(round: int, rounds: int, stage: str, steps: tuple[int, int]) -> _Markup:
    done, total = steps
    big = _tag("p", f"{round} ", _small(f"of {rounds}"), class_="big")
    return _card(
        "Rounds", big, _bar(done, total, f"{stage}, {done} of {total}", "bar"), _tag("p", f"Now: {stage}")
    )


def _epsilon(view: RunView | CoordinatorView) -> _Markup:
    if math.isinf(view.epsilon):
        return _card("Epsilon", _tag("p", "infinity", class_="big"), _tag("p", "Nothing is promised."))
    most = f"of {format_epsilon(view.epsilon)} at delta = {view.delta:g} for one patient"
    spent, when = "–", "Not computed yet for the rounds so far."
    if view.epsilon_spent is not None:
        spent = format_epsilon(view.epsilon_spent)
        when = f"By round {view.spent_round}; {max(0.0, view.epsilon - view.epsilon_spent):.3g} left."
    big = _tag("p", f"epsilon {spent} ", _small(most), class_="big")
    bar = _bar(view.epsilon_spent or 0.0, view.epsilon, spent_words(view), "bar spent")
    return _card("Epsilon spent", big, bar, _tag("p", when))


def _seen(each: HospitalSeen) -> Sequence[str]:
    unseen = "never" if each.seconds_unseen is None else f"{_seconds(each.seconds_unseen)} ago"
    asked = f"{each.work} of round {each.round}" if each.work else "nothing yet"
    state = _state(each.state, each.code if each.code != each.state else "")
    return (
        each.name, state, _seconds(each.seconds_in_state), unseen, asked, str(each.answers), str(each.losses),
        _bytes(each.bytes_sent), _bytes(each.bytes_received),
    )  # fmt: skip


def _by_work(view: CoordinatorView | HospitalView) -> Iterator[_Markup]:
    if view.seconds_by_work:
        rows = [(work, f"{seconds:.1f} s") for work, seconds in view.seconds_by_work.items()]
        yield _card("Time by work", _table(("Work", "Seconds"), rows, 1), wide=True)


def _curve(view: RunView) -> Iterator[_Markup]:
    """Yields the first figure over the rounds, once there are two looks at it."""
    if len(view.curve) < 2:
        return
    title, values = view.figures[0][0], [value for _, value in view.curve]
    low, high = math.floor(10 * min(values)) / 10, math.ceil(10 * max(values)) / 10
    high = high if high > low else low + 0.1
    last = max(view.rounds, view.curve[-1][0])

    def x(round: float) -> str:
        return f"{_LEFT + (_WIDTH - _LEFT - _RIGHT) * round / last:.1f}"

    def y(value: float) -> str:
        return f"{_TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - value) / (high - low):.1f}"

    inside = []
    for value in (low, (low + high) / 2, high):
        inside.append(_tag("line", x1=x(0), x2=x(last), y1=y(value), y2=y(value)))
        inside.append(_tag("text", f"{value:.2f}", x=_LEFT - 8, y=y(value), dy=4, **{"text-anchor": "end"}))
    for round, anchor in ((0, "start"), (last, "end")):
        inside.append(_tag("text", f"round {round}", x=x(round), y=_HEIGHT - 8, **{"text-anchor": anchor}))
    inside.append(_tag("polyline", points=" ".join(f"{x(round)},{y(value)}" for round, value in view.curve)))
    end, newest = view.curve[-1]
    inside.append(_tag("circle", cx=x(end), cy=y(newest), r=4))
    inside.append(_tag("text", f"{newest:.3f}", x=x(end), y=y(newest), dx=9, dy=4))
    first, began = view.curve[0]
    label = f"{title} by round: {began:.3f} in round {first}, {newest:.3f} in round {end}"
    box = {"viewBox": f"0 0 {_WIDTH} {_HEIGHT}", "aria-label": label}
    yield _tag("p", f"{title} by round", class_="note")
    yield _tag("svg", *inside, role="img", class_="curve", **box)


def _bar(done: float, total: float, label: str, kind: str) -> _Markup:
    width = min(100.0, 100 * done / total) if total > 0 else 0.0
    filled = _tag("rect", width=f"{width:.2f}", height=1)
    box = {"viewBox": "0 0 100 1", "preserveAspectRatio": "none", "aria-label": label}
    return _tag("svg", filled, role="img", class_=kind, **box)


def _card(title: str, *inside: str, wide: bool = False) -> _Markup:
    return _tag("section", _tag("h2", title), *inside, class_="wide" if wide else "card")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], numbers_from: int) -> _Markup:
    """Returns a table whose columns hold numbers from one of them on; the first names its row."""
    kinds = ["n" if column >= numbers_from else "text" for column in range(len(header))]
    head = [_tag("th", text, scope="col", class_=kind) for text, kind in zip(header, kinds, strict=True)]
    body = [
        _tag(
            "tr",
            _tag("th", row[0], scope="row"),
            *(_tag("td", text, class_=kind) for text, kind in zip(row[1:], kinds[1:], strict=True)),
        )
        for row in rows
    ]
    table = _tag("table", _tag("thead", _tag("tr", *head)), _tag("tbody", *body))
    return _tag("div", table, class_="scroll")


def _state(state: str, code: str = "") -> _Markup:
    kind = "good" if state in _GOOD else "bad" if state in _BAD else "other"
    return _tag("span", f"{state} ({code})" if code else state, class_=f"state {kind}")


def _small(text: str) -> _Markup:
    return _tag("small", text)


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _bytes(count: int) -> str:
    if count < 10_000:
        return f"{count:,} B"
    return f"{count / 1e3:,.0f} kB" if count < 10_000_000 else f"{count / 1e6:,.0f} MB"


def _tag(name: str, *inside: str, **attributes: object) -> _Markup:
    """Returns an element; text in it and in its attributes is escaped, markup stays."""
    given = "".join(f' {key.removesuffix("_")}="{escape(shown(str(value)))}"' for key, value in attributes.items())
    content = "".join(one if isinstance(one, _Markup) else escape(shown(one)) for one in inside)
    return _Markup(f"<{name}{given}>{content}</{name}>")
