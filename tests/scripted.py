"""A registry that says what a test has it say."""

import contextlib
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from process import DEADLINE


class Asked(NamedTuple):
    """A request as it came; the names of its headers in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


#: Status, type and body, or what is sent of one before nothing more is said.
Answer = tuple[int, str, bytes | list[bytes]]


class Scripted:
    """Something that answers each request as the test says: `answer(asked)` gives status, type and body."""

    def __init__(self, answer: Callable[[Asked], Answer]) -> None:
        self.asked: list[Asked] = []
        self._more = threading.Condition()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def handle_one_request(self) -> None:
                self.raw_requestline = self.rfile.readline(65537)
                if not self.raw_requestline or not self.parse_request():
                    self.close_connection = True
                    return
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                asked = Asked(self.command, self.path, headers, body)
                with outer._more:
                    outer.asked.append(asked)
                    outer._more.notify_all()
                status, kind, said = answer(asked)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                if isinstance(said, bytes):
                    self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                with contextlib.suppress(ConnectionError):
                    for part in [said] if isinstance(said, bytes) else said:
                        self.wfile.write(part)
                    if not isinstance(said, bytes):
                        self.rfile.read()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def wait_for(self, is_it: Callable[[Asked], bool]) -> Asked:
        """The first request for which this holds, as soon as there is one."""
        with self._more:
            came = self._more.wait_for(lambda: any(map(is_it, self.asked)), DEADLINE)
        assert came, self.asked
        return next(filter(is_it, self.asked))

    def close(self) -> None:
        """May be called twice."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


StartScripted = Callable[[Callable[[Asked], Answer]], Scripted]


def problem(status: int, code: str, detail: str = "so it is") -> Answer:
    said = {"type": "about:blank", "title": "x", "status": status, "detail": detail, "code": code}
    return status, "application/problem+json", json.dumps(said).encode()


def answered(value: Any) -> Answer:
    return 200, "application/json", json.dumps(value).encode()
