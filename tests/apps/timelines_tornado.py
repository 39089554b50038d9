"""A Tornado app that registers as `timelines` and finds `users`.

Usage: timelines_tornado.py TTL
"""

import asyncio
import json
import signal
import sys

from tornado.httpclient import AsyncHTTPClient
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, HTTPError, RequestHandler

from registryd.client import Discovery, NoInstances, registered

users = Discovery("users")


class Who(RequestHandler):
    def get(self) -> None:
        self.finish({"i_am": "timelines"})


class Peer(RequestHandler):
    async def get(self) -> None:
        try:
            one = users.pick()
        except NoInstances as error:
            raise HTTPError(503, str(error)) from None
        answer = await AsyncHTTPClient().fetch(one.base_url + "/who")
        self.finish({"found": json.loads(answer.body)["i_am"]})


async def main() -> None:
    (sock,) = bind_sockets(0, "127.0.0.1")
    HTTPServer(Application([("/who", Who), ("/peer", Peer)])).add_socket(sock)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    base_url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    async with users, registered("timelines", base_url, ttl=float(sys.argv[1])) as registration:
        print(f"serving {base_url} as {registration.instance_id}", file=sys.stderr, flush=True)
        await stop.wait()


asyncio.run(main())
