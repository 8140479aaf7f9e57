"""A view on this machine's loopback address: as a page, as JSON, and as Prometheus metrics.

The page is for the person at this machine: it binds 127.0.0.1 only, answers GET of three paths, runs no script, and
refuses requests that a web page of elsewhere sends to it under another host name (DNS rebinding).
"""

import hashlib
import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer

from wardround.boundary.loopback import LOOPBACK, QuietHandler, is_own_name
from wardround.boundary.text import shown
from wardround.errors import StudyError, WardroundError
from wardround.watching.markup import STYLE, html_of
from wardround.watching.views import CoordinatorView, HospitalView, RunView, View, json_of


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
        f"style-src 'sha256-{b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'"
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
