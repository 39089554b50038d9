"""The limit: a server that parses each request with httptools on uvloop and answers the bytes of a file, whatever was
asked: `python tests/bench/peers/echo.py PORT FILE`
"""

import asyncio
import sys
from pathlib import Path
from typing import cast

import httptools
import uvloop


class Echo(asyncio.Protocol):
    """A connection on which each whole request gets the same answer."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's is one without being derived from it

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        assert self._transport is not None
        self._transport.write(self._answer)


def whole(body: bytes) -> bytes:
    """A complete answer with this body."""
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


async def serve(port: int, answer: bytes) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Echo(answer), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), whole(Path(sys.argv[2]).read_bytes())))
