# SPDX-License-Identifier: MIT
"""A WSGI application whose requests run commands on a pool of connections.

    pip install gunicorn
    gunicorn --workers 2 --threads 8 web_pool

It is the same for all of gunicorn's workers, with --preload and without.  GET /NAME
runs ``test user NAME``.
"""

from __future__ import annotations

import os
from typing import Any

import remctl

HOST = os.environ.get("REMCTL_HOST", "foo.example.com")
PORT = os.environ.get("REMCTL_PORT")
TEXT = [("Content-Type", "text/plain; charset=utf-8")]

# As large as a worker has threads.  Every worker has a pool of its own: no connection
# is opened before it is needed, and none goes from one process to another.
pool = remctl.Pool(HOST, PORT, size=8, timeout=10, wait=5)


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Answer a request."""
    try:
        result = pool.run(["test", "user", environ["PATH_INFO"][1:]]).check()
    except remctl.RemctlError as error:
        environ["wsgi.errors"].write(f"{error}\n")
        start_response("503 Service Unavailable", TEXT)
        return [b"the command has failed\n"]
    start_response("200 OK", TEXT)
    return [result.stdout or b""]
