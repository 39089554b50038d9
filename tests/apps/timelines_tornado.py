"""A Tornado app that registers as `timelines` and finds `users` through the registry.

Usage: timelines_tornado.py TTL
"""

import asyncio
import json
import os
import signal
import sys

from tornado.httpclient import AsyncHTTPClient
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from registryd.client import deregister_service, register_service


class Who(RequestHandler):
    def get(self) -> None:
        self.finish({"i_am": "timelines"})


class Peer(RequestHandler):
    async def get(self) -> None:
        client = AsyncHTTPClient()
        found = await client.fetch(os.environ["REGISTRY_URL"] + "/services/users")
        peer = json.loads(found.body)["instances"][0]
        answer = await client.fetch(peer["base_url"] + "/who")
        self.finish({"found": json.loads(answer.body)["i_am"]})


async def main() -> None:
    (sock,) = bind_sockets(0, "127.0.0.1")
    HTTPServer(Application([("/who", Who), ("/peer", Peer)])).add_socket(sock)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    base_url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    registration = await register_service("timelines", base_url, ttl=float(sys.argv[1]))
    print(f"serving {base_url} as {registration.instance_id}", file=sys.stderr, flush=True)

    await stop.wait()
    await deregister_service()


asyncio.run(main())
