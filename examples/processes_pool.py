# SPDX-License-Identifier: MIT
"""Processes that run commands on pools of connections.

    python processes_pool.py [fork|spawn|forkserver]

Runs ``test user NUMBER`` for some numbers.
"""

from __future__ import annotations

import multiprocessing
import os
import sys

import remctl

HOST = os.environ.get("REMCTL_HOST", "foo.example.com")
PORT = os.environ.get("REMCTL_PORT")

# Every process has this from its import, or from the fork: in both cases, it is empty
# there.
pool = remctl.Pool(HOST, PORT, size=1, timeout=30)


def user(number: int) -> str:
    """Run the command, in whichever process this is."""
    result = pool.run(["test", "user", number]).check()
    return (result.stdout or b"").decode().strip()


if __name__ == "__main__":
    print(user(0))
    context = multiprocessing.get_context(sys.argv[1] if sys.argv[1:] else None)
    with context.Pool(2) as processes:
        print(*processes.map(user, range(1, 9), chunksize=1), sep="\n")
    print(user(9))
