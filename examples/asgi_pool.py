# SPDX-License-Identifier: MIT
"""An ASGI application whose requests run commands on a pool of connections.

    pip install uvicorn
    uvicorn asgi_pool:application

GET /NAME runs ``test user NAME``.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import remctl
import remctl.aio

HOST = os.environ.get("REMCTL_HOST", "foo.example.com")
PORT = os.environ.get("REMCTL_PORT")
TEXT = [(b"content-type", b"text/plain; charset=utf-8")]

pool = remctl.aio.Pool(HOST, PORT, size=8, timeout=10, wait=5)


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Answer a request."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        pool.close()
        await send({"type": "lifespan.shutdown.complete"})
        return
    try:
        result = (await pool.run(["test", "user", scope["path"][1:]])).check()
        status, body = 200, result.stdout or b""
    except remctl.RemctlError as error:
        logging.getLogger("uvicorn.error").warning("%s", error)
        status, body = 503, b"the command has failed\n"
    await send({"type": "http.response.start", "status": status, "headers": TEXT})
    await send({"type": "http.response.body", "body": body})
