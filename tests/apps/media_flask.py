"""A Flask app that registers as `media` and finds `users`.

Usage: media_flask.py TTL
"""

import json
import sys
import threading
from signal import SIGTERM, signal
from types import FrameType
from urllib.request import urlopen

from flask import Flask, abort
from werkzeug.serving import make_server

from registryd.client import NoInstances
from registryd.client.blocking import Discovery, registered

app = Flask(__name__)
users = Discovery("users")


@app.get("/who")
def who() -> dict[str, str]:
    return {"i_am": "media"}


@app.get("/peer")
def peer() -> dict[str, str]:
    try:
        one = users.pick()
    except NoInstances as error:
        abort(503, str(error))
    with urlopen(one.base_url + "/who") as answer:
        return {"found": json.load(answer)["i_am"]}


server = make_server("127.0.0.1", 0, app, threaded=True)
base_url = f"http://127.0.0.1:{server.server_port}"


def stop(number: int, frame: FrameType | None) -> None:
    threading.Thread(target=server.shutdown).start()


signal(SIGTERM, stop)
with users, registered("media", base_url, ttl=float(sys.argv[1])) as registration:
    print(f"serving {base_url} as {registration.instance_id}", file=sys.stderr, flush=True)
    server.serve_forever()
