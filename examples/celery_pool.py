# SPDX-License-Identifier: MIT
"""A Celery task that runs commands on a pool of connections.

    pip install celery
    celery --app celery_pool worker

The broker is that of celeryconfig.py.
"""

from __future__ import annotations

import os

from celery import Celery, Task

import remctl

HOST = os.environ.get("REMCTL_HOST", "foo.example.com")
PORT = os.environ.get("REMCTL_PORT")

app = Celery("celery_pool")
app.config_from_object("celeryconfig")

# Each of the worker's processes runs a task at a time, and has a pool of its own.
pool = remctl.Pool(HOST, PORT, size=1, timeout=10)


@app.task(bind=True, max_retries=5)
def user(self: Task, name: str) -> str:
    """Run ``test user NAME``; try again if that has certainly not been sent."""
    try:
        result = pool.run(["test", "user", name]).check()
    except remctl.RemctlError as error:
        if error.stage in ("resolve", "connect"):
            raise self.retry(exc=error, countdown=2**self.request.retries) from error
        raise
    return (result.stdout or b"").decode()
