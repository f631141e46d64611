"""The server of a review: on this machine alone, and for its own page alone."""

import hmac
import http.server
import io
import json
import pathlib
import secrets
import sys
import threading
import urllib.parse
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from PIL import Image

from autodo_jax.data.images import formats, pixels
from autodo_jax.errors import AutodoError, DataError
from autodo_jax.review.decisions import Decisions

HOST = "127.0.0.1"
_PAGE = pathlib.Path(__file__).with_name("page")
_STATIC = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/review.js": ("review.js", "text/javascript; charset=utf-8"),
    "/review.css": ("review.css", "text/css; charset=utf-8"),
}
_HEADERS = {
    # Nothing from elsewhere, no inline scripts, in no frame of another page.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src "
    "'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_SIDE = 384  # pixels of an image on the page, at most
_MAX_BYTES = 2**16  # of a request


class Point(NamedTuple):
    """An image to be reviewed."""

    id: str
    given: str
    suggested: str
    score: float  # noise score
    reason: str  # "" for a suspect, else why it is certain that a label is wrong


class Server(http.server.ThreadingHTTPServer):
    """Serves a review; `url` has the token without which nothing is answered."""

    daemon_threads = True

    def __init__(
        self,
        points: Sequence[Point],
        class_names: Sequence[str],
        decisions: Decisions,
        read: Callable[[str], bytes],
        port: int = 0,
    ):
        """Binds to this machine's loopback address.

        Args:
          points: in the order in which they are shown.
          class_names: to choose from.
          decisions: where they go.
          read: id -> contents of its file; called by one thread at a time.
          port: 0 for any that is free.

        Raises:
          OSError: the port is in use.
        """
        super().__init__((HOST, port), _Handler)
        self.points, self.class_names = points, class_names
        self.decisions, self.read = decisions, read
        self.token = secrets.token_urlsafe(24)
        self.lock = threading.Lock()
        self.origin = f"http://{HOST}:{self.server_address[1]}"
        self.url = f"{self.origin}/?token={self.token}"

    def state(self) -> dict[str, Any]:
        """Returns what the page shows, as JSON holds it."""
        current = self.decisions.current
        return {
            "classes": list(self.class_names),
            "points": [
                {
                    **point._asdict(),
                    "decision": (
                        current[point.id]._asdict() if point.id in current else None
                    ),
                }
                for point in self.points
            ],
        }

    def act(self, path: str, given: dict[str, Any]) -> dict[str, Any]:
        """Decides, or takes a decision back; returns the new state.

        Raises:
          DataError: a request of another kind.
        """
        if path == "/undo":
            return {"undone": self.decisions.undo()}
        if path != "/decide":
            raise DataError(f"there is no {path}")
        label = given.get("label")
        if label is not None and label not in self.class_names:
            raise DataError("there is no such class")
        self.decisions.decide(str(given.get("id")), str(given.get("decision")), label)
        return {}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of a browser that has gone."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    server_version, sys_version = "autodo_jax", ""

    def do_GET(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        if url.path in ("/review.js", "/review.css"):  # They hold nothing of the run.
            name, kind = _STATIC[url.path]
            self._answer((_PAGE / name).read_bytes(), kind)
        elif url.path == "/favicon.ico":  # Browsers ask for it without the token.
            self._answer(b"", "image/x-icon")
        elif not self._is_own(url):
            self._refuse(403)
        elif url.path == "/":
            name, kind = _STATIC["/"]
            self._answer((_PAGE / name).read_bytes(), kind)
        elif url.path == "/state":
            with self.server.lock:
                state = self.server.state()
            self._answer(json.dumps(state).encode(), "application/json")
        elif url.path.startswith("/image/"):
            self._image(url.path.removeprefix("/image/"))
        else:
            self._refuse(404)

    def do_POST(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        is_own = self.headers.get("Origin") == self.server.origin
        if not (is_own and self._is_own(url)):
            return self._refuse(403)
        try:
            length = int(self.headers.get("Content-Length", ""))
            if not 0 <= length <= _MAX_BYTES:
                raise ValueError
            given = json.loads(self.rfile.read(length))
            if not isinstance(given, dict):
                raise ValueError
            with self.server.lock:
                answer = self.server.act(url.path, given)
        except (AutodoError, ValueError, RecursionError) as error:
            return self._answer(
                json.dumps({"error": str(error)}).encode(), "application/json", 400
            )
        self._answer(json.dumps(answer).encode(), "application/json")

    def _is_own(self, url: urllib.parse.SplitResult) -> bool:
        """True of a request with the token, to this address by no other name."""
        token = urllib.parse.parse_qs(url.query).get("token", [""])[0]
        is_host = self.headers.get("Host") == self.server.origin.removeprefix("http://")
        return is_host and hmac.compare_digest(
            token.encode(), self.server.token.encode()
        )

    def _image(self, number: str) -> None:
        """Answers with an image by its position: no path is ever taken from outside."""
        points = self.server.points
        if not (number.isascii() and number.isdecimal() and len(number) < 10):
            return self._refuse(404)
        if int(number) >= len(points):
            return self._refuse(404)
        try:
            with self.server.lock:
                content = self.server.read(points[int(number)].id)
            with formats.open_image(content) as image:
                if image.width * image.height > pixels.MAX_PIXELS:
                    return self._refuse(404)
                image.draft("RGB", (_SIDE, _SIDE))
                shown = image.convert("RGBA" if image.has_transparency_data else "RGB")
        except Exception:  # Decoders raise errors of any kind for damaged files.
            return self._refuse(404)
        shown.thumbnail((_SIDE, _SIDE), Image.Resampling.BILINEAR)
        file = io.BytesIO()
        shown.save(file, "PNG")
        self._answer(file.getvalue(), "image/png")

    def _answer(self, content: bytes, kind: str, status: int = 200) -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": kind}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _refuse(self, status: int) -> None:
        self._answer(b"refused\n", "text/plain; charset=utf-8", status)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing of each request."""
