"""A view in words, as Prometheus metrics, and as a page on this machine's loopback address.

The page is for the person at this machine: it binds 127.0.0.1 only, answers GET of three paths, runs no script, and
refuses requests that a web page of elsewhere sends to it under another host name (DNS rebinding).
"""

import hashlib
import json
import math
from base64 import b64encode
from collections.abc import Callable, Iterator
from html import escape
from http.server import ThreadingHTTPServer

from wardround.accounting.statement import format_epsilon
from wardround.boundary.loopback import LOOPBACK, QuietHandler, is_own_name
from wardround.boundary.text import counted, shown
from wardround.errors import StudyError, WardroundError
from wardround.watching.views import CoordinatorView, HospitalView, RunView, View, json_of

_STYLE = (
    "body{max-width:60rem;margin:1rem auto;padding:0 1rem;font-family:system-ui,sans-serif}h1{font-size:1.3rem}"
    "pre{font-size:1rem;line-height:1.6;white-space:pre-wrap;overflow-wrap:anywhere}"
)


def lines_of(view: View) -> Iterator[str]:
    """Yields a view in words."""
    match view:
        case CoordinatorView():
            over = "ended" if view.is_over else view.stage
            yield f"study {view.study}: round {view.round} of {view.rounds}, {over}"
            yield _spent(view)
            for each in view.hospitals:
                code = f" ({each.code})" if each.code else ""
                seen = "" if each.seconds_unseen is None else f" (last seen {each.seconds_unseen:.0f} s ago)"
                yield (
                    f"  {each.name}: {each.state}{code} for {each.seconds_in_state:.0f} s{seen}, "
                    f"{each.work or 'nothing'} of round {each.round}; {counted(each.answers, 'answer')}, "
                    f"{counted(each.losses, 'lost connection')}, "
                    f"{each.bytes_sent} bytes sent, {each.bytes_received} received, {each.seconds:.1f} s waited for"
                )
            yield from _by_work(view)
        case HospitalView():
            state = "runs" if view.is_running else "does not run"
            last = f"last answer {view.last}, round {view.round}" if view.last else "no answer yet"
            yield f"{view.hospital}: the agent {state}; {last}"
            for study in view.studies:
                most = f"{format_epsilon(study.epsilon_most)} at delta = {study.delta:g}"
                left = max(0.0, study.epsilon_most - study.epsilon_spent)
                own = "; own figures in evaluation/" if study.has_own_figures else ""
                yield (
                    f"  study {study.name} ({study.digest[:12]}): epsilon spent "
                    f"{format_epsilon(study.epsilon_spent)} of {most} for one patient; {left:.3g} left{own}"
                )
            yield (
                f"  {counted(view.answers, 'answer')}, {view.refusals} of them refusals or failures; "
                f"{view.bytes_in} bytes in, "
                f"{view.bytes_out} out"
            )
            yield from _by_work(view)
        case RunView():
            so_far = f", {view.done} of {view.total}" if view.total else ""
            time_left = "" if view.seconds_left is None else f", about {view.seconds_left:.0f} s left"
            yield f"study {view.study}: round {view.round} of {view.rounds}"
            yield f"now: {view.stage}{so_far}{time_left}"
            yield _spent(view)
            if view.figures:
                figures = ", ".join(f"{title} {value:.3f}" for title, value in view.figures)
                yield f"on the {view.measured_on} set, released without protection: {figures}"
            if view.round:
                away = f"; away: {', '.join(view.missing)}" if view.missing else ""
                answered = view.hospitals - len(view.missing)
                yield f"{answered} of {counted(view.hospitals, 'hospital')} answered in round {view.round}{away}"


def _spent(view: CoordinatorView | RunView) -> str:
    if math.isinf(view.epsilon):
        return "epsilon: infinity, nothing is promised"
    most = f"{format_epsilon(view.epsilon)} at delta = {view.delta:g} for one patient"
    if view.epsilon_spent is None:
        return f"epsilon: at most {most}; not computed yet for the rounds so far"
    spent, left = format_epsilon(view.epsilon_spent), max(0.0, view.epsilon - view.epsilon_spent)
    return f"epsilon spent by round {view.spent_round}: {spent} of {most}; {left:.3g} left"


def _by_work(view: CoordinatorView | HospitalView) -> Iterator[str]:
    for work, seconds in view.seconds_by_work.items():
        yield f"  {work}: {seconds:.1f} s"


def metrics_of(view: View) -> str:
    """Returns a view in the text format of Prometheus, https://prometheus.io/docs/instrumenting/exposition_formats/."""
    rows: list[tuple[str, dict[str, str], float]] = []
    match view:
        case CoordinatorView():
            rows += [*_promised(view), ("run_over", {}, view.is_over)]
            for each in view.hospitals:
                label = {"hospital": each.name}
                rows += [
                    ("hospital_up", label, each.state not in ("away", "failed", "slow")),
                    (
                        "hospital_state_seconds",
                        label | {"state": each.state, "code": each.code},
                        each.seconds_in_state,
                    ),
                    ("hospital_answers_total", label, each.answers),
                    ("hospital_losses_total", label, each.losses),
                    ("bytes_sent_total", label, each.bytes_sent),
                    ("bytes_received_total", label, each.bytes_received),
                ]
        case HospitalView():
            rows += [("agent_up", {}, view.is_running), ("round", {}, view.round)]
            rows += [("answers_total", {}, view.answers), ("refusals_total", {}, view.refusals)]
            rows += [("bytes_received_total", {}, view.bytes_in), ("bytes_sent_total", {}, view.bytes_out)]
            for study in view.studies:
                label = {"study": study.name, "digest": study.digest}
                rows += [
                    ("epsilon_spent", label, study.epsilon_spent),
                    ("epsilon_planned", label, study.epsilon_most),
                ]
        case RunView():
            rows += [*_promised(view), ("missing", {}, len(view.missing))]
            rows += [("figure", {"title": title, "on": view.measured_on}, value) for title, value in view.figures]
    if not isinstance(view, RunView):
        rows += [("work_seconds_total", {"work": work}, seconds) for work, seconds in view.seconds_by_work.items()]
    found: dict[str, list[str]] = {}
    for name, labels, value in rows:
        given = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        number = "+Inf" if value == float("inf") else f"{float(value):.10g}"
        found.setdefault(name, []).append(f"wardround_{name}{{{given}}} {number}")
    kinds = {name: "counter" if name.endswith("_total") else "gauge" for name in found}
    return "".join(f"# TYPE wardround_{name} {kinds[name]}\n" + "\n".join(found[name]) + "\n" for name in found)


def _promised(view: CoordinatorView | RunView) -> Iterator[tuple[str, dict[str, str], float]]:
    yield from (("round", {}, view.round), ("rounds", {}, view.rounds))
    yield from (("epsilon_spent", {}, view.epsilon_spent or 0.0), ("epsilon_planned", {}, view.epsilon))


def html_of(view: View) -> str:
    """Returns a view as a page, which loads itself anew every five seconds."""
    rows = "\n".join(escape(line) for line in lines_of(view))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="5">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><style>{_STYLE}</style>'
        f"<title>Wardround</title></head><body><h1>Wardround</h1><pre>{rows}</pre></body></html>"
    )


class StatusServer(ThreadingHTTPServer):
    """The page of a view: `/`, `/status.json` and `/metrics`.

    Args:
        look: returns the view as it is now.
        port: on 127.0.0.1; 0 takes a free one.

    Raises:
        StudyError: the port cannot be had.
    """

    daemon_threads = True

    def __init__(self, look: Callable[[], View], port: int) -> None:
        self.look = look
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except (OSError, OverflowError) as error:
            raise StudyError(
                f"`--serve` or `--watch` must be a free port of this machine, got {port} ({error}). Choose another.",
                code="study-status-port",
            ) from None


class _Handler(QuietHandler):
    server: StatusServer
    content_policy = (
        "default-src 'none'; frame-ancestors 'none'; "
        f"style-src 'sha256-{b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'"
    )

    def do_GET(self) -> None:  # noqa: N802  # a name of the standard library
        """Answers one request."""
        if not is_own_name(self.headers.get("Host", "")):
            self.send(403, "text/plain", b"refused: ask for 127.0.0.1\n")
            return
        makers: dict[str, tuple[str, Callable[[View], str]]] = {
            "/": ("text/html; charset=utf-8", html_of),
            "/status.json": ("application/json", lambda view: json.dumps(json_of(view)) + "\n"),
            "/metrics": ("text/plain; version=0.0.4; charset=utf-8", metrics_of),
        }
        if self.path not in makers:
            self.send(404, "text/plain", b"not found\n")
            return
        kind, made = makers[self.path]
        try:
            self.send(200, kind, made(self.server.look()).encode())
        except WardroundError as error:
            self.send(503, "text/plain", f"{error.code}\n".encode())


def _escaped(text: str) -> str:
    return shown(text).replace("\\", "\\\\").replace('"', '\\"')
