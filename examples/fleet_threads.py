# SPDX-License-Identifier: MIT
"""Run a command on many servers at once, with the blocking call in threads.

    pip install tqdm
    python fleet_threads.py HOST[:PORT],... COMMAND [ARGUMENT ...]

Errors are printed beside results.  Exits with 1 if there was one.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor, as_completed

from tqdm import tqdm

import remctl

AT_ONCE = 50  # threads
TIMEOUT = 30  # seconds of silence


def run(server: str, command: list[str]) -> remctl.RemctlSimpleResult:
    """Run ``command`` on ``server``."""
    host, _, port = server.partition(":")
    return remctl.remctl(host, port or None, command=command, timeout=TIMEOUT)


def main(servers: list[str], command: list[str]) -> int:
    """Run ``command`` on all ``servers``; return the exit status."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        calls = [pool.submit(run, server, command) for server in servers]
        for _ in tqdm(as_completed(calls), total=len(calls)):
            pass
    failed = False
    for server, call in zip(servers, calls):
        try:
            result = call.result()
        except remctl.RemctlError as error:
            print(f"{server}: {error}")
            failed = True
        else:
            output = result.text(errors="replace").rstrip()
            print(f"{server}: {output} (status {result.status})")
            failed |= result.status != 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1].split(","), sys.argv[2:]))
