"""A model behind HTTP, for a clinic's own machines: the page, and a JSON interface with the answers of `predict`.

    GET  /           the page, see `wardround.inference.page.write`
    POST /predict    the bytes of one file (JPEG, PNG, TIFF, BMP, DICOM, NIfTI) to the JSON of `predict --json`

Requests are in memory until they are answered. Nothing is stored and nothing is logged. There is no encryption and no
login: another program in front of it has to give both where others than this machine may ask.
"""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from threading import BoundedSemaphore
from typing import cast

from wardround.boundary.loopback import LOOPBACK, QuietHandler, is_own_name
from wardround.errors import MissingExtra
from wardround.images.decode.quiet import QUIET
from wardround.images.dicom.parse import is_dicom
from wardround.images.loose import Unread, Wanted, unlabelled
from wardround.images.rows.recipe import VolumeRecipe
from wardround.images.store import Source, Store
from wardround.inference.answers import Prediction, Unanswered
from wardround.inference.model import Model
from wardround.inference.reading import read, recipe_of
from wardround.inference.tables import json_of

MOST_BYTES = 64 << 20
"""A request of more bytes is refused before it is read."""

MOST_AT_ONCE = 4
"""Requests that are in memory at one time; a further one is told to come again."""

SECONDS = 30
"""A client that sends nothing for so long is let go."""

_NAME = "picture"


class Refused(Exception):
    """A request that is answered by a status and one sentence."""

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True)
class Answer:
    """The content of a response, and its media type."""

    kind: str
    content: bytes


HTML, JSON, BYTES = "text/html; charset=utf-8", "application/json", "application/octet-stream"


class _Content(Source):
    """One file in memory."""

    def __init__(self, name: str, content: bytes) -> None:
        self.sizes, self._content = {name: len(content)}, content

    def read(self, name: str, limit: int) -> bytes:
        return self._content[:limit]


def answers_of(model: Model, content: bytes) -> list[Prediction]:
    """Returns the answers for the content of one file, as `Model.predict` gives them; several for a DICOM of frames.

    Raises:
        MissingExtra: the file needs a package that is not installed, such as pydicom.
    """
    recipe = recipe_of(model.card)
    volumes = isinstance(recipe, VolumeRecipe)
    ending = "" if is_dicom(content) else ".nii.gz" if volumes else ".png"  # decoders go by the content alone
    store = Store(Path(), _Content(_NAME + ending, content))
    found = unlabelled(store, Wanted(volumes, recipe.channels), given=True)
    answers: list[Prediction] = []
    for one in found:
        ready = one if isinstance(one, Unread) else read(model.card, store, None, one)
        if isinstance(ready, Unread):
            answers.append(Unanswered(_NAME, ready.reason))
        else:
            ready = replace(ready, name=ready.name.replace(_NAME + ending, _NAME))
            answers.append(model.answer(ready, model.logits(ready.rows.copy())))
    return answers


class Service(ThreadingHTTPServer):
    """A server of a few paths; `serve_forever` answers until `shutdown`.

    Args:
        gets: the response to `GET` of a path.
        posts: the response to `POST` of a path, from the request's bytes; it may raise `Refused` and `MissingExtra`.
        host: address to listen at; any but loopback lets other machines ask.
        port: 0 takes a free one, see `url`.

    Raises:
        OSError: the address cannot be had.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        gets: Mapping[str, Callable[[], Answer]],
        posts: Mapping[str, Callable[[bytes], Answer]],
        host: str = LOOPBACK,
        port: int = 0,
    ) -> None:
        super().__init__((host, port), _Handler)
        self.gets, self.posts, self.places = gets, posts, BoundedSemaphore(MOST_AT_ONCE)
        self.host, self.port = str(self.server_address[0]), int(self.server_address[1])
        self.is_loopback = ip_address(self.host).is_loopback

    @classmethod
    def of_model(cls, model: Model, page: str, host: str = LOOPBACK, port: int = 0) -> "Service":
        """Returns the server of a model and its page."""

        def predict(content: bytes) -> Answer:
            return Answer(JSON, json.dumps(json_of(model, answers_of(model, content))).encode())

        html = Answer(HTML, page.encode("utf-8"))
        return cls({"/": lambda: html}, {"/predict": predict}, host, port)

    @property
    def url(self) -> str:
        """The page's address."""
        return f"http://{self.host}:{self.port}/"

    def handle_error(self, request: object, client_address: object) -> None:
        """Writes nothing about a client that went away; any other error is a bug and shows its traceback."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    def names(self, host: str) -> bool:
        """Returns True for a Host header that may name this server: any, where other machines may ask."""
        return not self.is_loopback or is_own_name(host, self.host)


class _Handler(QuietHandler):
    timeout = SECONDS
    content_policy = "frame-ancestors 'none'"

    def do_GET(self) -> None:  # noqa: N802  # a name of the standard library
        service = self._service()
        if service is None:
            return
        make = service.gets.get(self.path)
        if make is None:
            self._unknown(service)
        else:
            self._answer(make())

    def do_POST(self) -> None:  # noqa: N802  # a name of the standard library
        service = self._service()
        if service is None:
            return
        answer = service.posts.get(self.path)
        if answer is None:
            self._unknown(service)
            return
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            self._fault(HTTPStatus.LENGTH_REQUIRED, "a request must state its Content-Length")
        elif int(length) > MOST_BYTES:
            self._fault(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a request must have at most {MOST_BYTES:,} bytes")
        elif not service.places.acquire(blocking=False):
            self._fault(HTTPStatus.SERVICE_UNAVAILABLE, f"{MOST_AT_ONCE} requests are being answered; ask again")
        else:
            try:
                content = self.rfile.read(int(length))
                if len(content) < int(length):
                    self.close_connection = True
                    return
                found = answer(content)
            except Refused as error:
                self._fault(error.status, str(error))
                return
            except MissingExtra as error:
                self._fault(HTTPStatus.NOT_IMPLEMENTED, str(error))
                return
            finally:
                service.places.release()
            self._answer(found)

    def _unknown(self, service: Service) -> None:
        self._fault(HTTPStatus.NOT_FOUND, f"the paths are {' and '.join(sorted({*service.gets, *service.posts}))}")

    def _answer(self, answer: Answer) -> None:
        self.send(HTTPStatus.OK, answer.kind, answer.content)

    def _service(self) -> Service | None:
        """Returns the server, or None after a refusal: a page of another origin in this machine's browser asks."""
        service = cast(Service, self.server)
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        if not service.names(host) or origin not in (None, f"http://{host}", f"https://{host}"):
            self._fault(HTTPStatus.FORBIDDEN, "a request must come from this server's own page or from no page")
            return None
        return service

    def _fault(self, status: HTTPStatus, sentence: str) -> None:
        self.close_connection = True  # what the request has more is not read
        self.send(status, JSON, json.dumps({"error": sentence}).encode())


def serve(service: Service) -> None:
    """Answers until Ctrl-C or SIGTERM."""
    with service, QUIET:
        service.serve_forever()
