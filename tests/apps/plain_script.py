"""A plain script that registers as `jobs`, says whom it finds as `media`, and works until SIGTERM.

Usage: plain_script.py TTL
"""

import signal
import sys
import threading

from registryd.client import NoInstances
from registryd.client.blocking import Discovery, register_service

signal.signal(signal.SIGTERM, lambda *_: sys.exit())
registration = register_service("jobs", "http://127.0.0.1:9", ttl=float(sys.argv[1]))
with Discovery("media") as media:
    try:
        print(f"found {media.pick().base_url}", file=sys.stderr, flush=True)
    except NoInstances as error:
        print(error, file=sys.stderr, flush=True)
    print(f"serving http://127.0.0.1:9 as {registration.instance_id}", file=sys.stderr, flush=True)
    threading.Event().wait()
