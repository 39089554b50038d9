"""A FastAPI app under uvicorn that registers as `users` and finds `timelines`.

Usage: users_fastapi.py TTL
"""

import json
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI, HTTPException
from tornado.httpclient import AsyncHTTPClient

from registryd.client import Discovery, NoInstances, deregister_service, register_service

listening = socket.create_server(("127.0.0.1", 0))
base_url = f"http://127.0.0.1:{listening.getsockname()[1]}"
timelines = Discovery("timelines")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    registration = await register_service("users", base_url, ttl=float(sys.argv[1]))
    print(f"serving {base_url} as {registration.instance_id}", file=sys.stderr, flush=True)
    async with timelines:
        yield
    await deregister_service()


app = FastAPI(lifespan=lifespan)


@app.get("/who")
async def who() -> dict[str, str]:
    return {"i_am": "users"}


@app.get("/peer")
async def peer() -> dict[str, str]:
    try:
        one = timelines.pick()
    except NoInstances as error:
        raise HTTPException(503, str(error)) from None
    answer = await AsyncHTTPClient().fetch(one.base_url + "/who")
    return {"found": json.loads(answer.body)["i_am"]}


uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])
