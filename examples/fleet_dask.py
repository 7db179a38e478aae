# SPDX-License-Identifier: MIT
"""Run a command on many servers at once, from many machines.

    pip install tqdm 'dask[distributed]'
    python fleet_dask.py HOST[:PORT],... COMMAND [ARGUMENT ...]

remctl.remctl(), its arguments, results and exceptions pickle: dask's workers need no
more than the package and tickets of their own.  Here they are two processes on this
machine; Client("scheduler:8786") would use those of a cluster.

Errors are printed beside results.  Exits with 1 if there was one.
"""

from __future__ import annotations

import sys

from dask.distributed import Client, LocalCluster, as_completed
from tqdm import tqdm

import remctl

TIMEOUT = 30  # seconds of silence


def main(servers: list[str], command: list[str]) -> int:
    """Run ``command`` on all ``servers``; return the exit status."""
    hosts = [server.partition(":")[0] for server in servers]
    ports = [server.partition(":")[2] or None for server in servers]
    local = LocalCluster(n_workers=2, threads_per_worker=20, dashboard_address=None)
    with local as cluster, Client(cluster) as client:
        # pure=False: the same command again is run again.
        calls = client.map(
            remctl.remctl, hosts, ports, command=command, timeout=TIMEOUT, pure=False
        )
        for _ in tqdm(as_completed(calls), total=len(calls)):
            pass
        failed = False
        for server, call in zip(servers, calls):
            error = call.exception()
            if error is not None:
                print(f"{server}: {error}")
                failed = True
                continue
            result = call.result()
            output = result.text(errors="replace").rstrip()
            print(f"{server}: {output} (status {result.status})")
            failed |= result.status != 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1].split(","), sys.argv[2:]))
