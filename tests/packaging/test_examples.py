# SPDX-License-Identifier: MIT
"""The recipes in examples/, run as a reader would."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Callable

import pytest
from support import HANG, commands, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from remctl.testing import Realm, Server

EXAMPLES = Path(__file__).parent.parent.parent / "examples"

FLEETS = ["asyncio", "threads"]
if sys.implementation.name == "cpython":
    FLEETS.append("dask")  # distributed wants gc.callbacks, which PyPy has not


@pytest.mark.parametrize("name", FLEETS)
def test_fleet(name: str, realm: Realm) -> None:
    """Three servers and one that is not there: results and errors, and a bar."""
    with ExitStack() as stack:
        fleet = [stack.enter_context(realm.server(commands(realm))) for _ in range(3)]
        servers = [f"{server.host}:{server.port}" for server in fleet]
        dead = "localhost:1"
        result = subprocess.run(
            [
                sys.executable,
                str(EXAMPLES / f"fleet_{name}.py"),
                ",".join([*servers, dead, *servers]),
                "test",
                "hello",
            ],
            env=dict(os.environ),
            capture_output=True,
            text=True,
            timeout=HANG,
            check=False,
        )
    lines = result.stdout.splitlines()
    good = [f"{server}: hello world (status 0)" for server in servers]
    assert lines[:3] == lines[4:] == good, result.stderr
    assert lines[3].startswith(f"{dead}: cannot connect to localhost")
    assert result.returncode == 1
    assert "7/7" in result.stderr


# Programs that serve others


def environment(server: Server) -> dict[str, str]:
    """Return what the programs find: the server, and the examples as modules."""
    return {
        **os.environ,
        "REMCTL_HOST": server.host,
        "REMCTL_PORT": str(server.port),
        "PYTHONPATH": str(EXAMPLES),
        "PYTHON_GIL": "1",  # gevent would warn that it switches it on
        "PYTHONUNBUFFERED": "1",
    }


@contextmanager
def running(
    server: Server, directory: Path, *command: str, ready: str
) -> Iterator[Callable[[], str]]:
    """Run a program until the block ends, and give it what reads the program's log."""
    log = directory / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=directory,
            env=environment(server),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(lambda: ready in log.read_text() or process.poll() is not None)
        yield log.read_text
        process.terminate()
        # uvicorn ends in order, and then by the signal.
        assert process.wait(timeout=HANG) in (0, -signal.SIGTERM), log.read_text()
        assert "Traceback" not in log.read_text()
    finally:
        process.kill()
        process.wait()


def get(address: str) -> bytes:
    """Ask a web server."""
    with urllib.request.urlopen(address, timeout=HANG) as response:
        body: bytes = response.read()
        return body


def check_requests(address: str, realm: Realm) -> None:
    """See that each of 60 requests, ten at a time, gets its own answer."""
    with ThreadPoolExecutor(10) as threads:
        bodies = list(threads.map(get, (f"{address}/{n}" for n in range(60))))
    assert bodies == [f"{realm.user} {n}\n".encode() for n in range(60)]


def accepted(server: Server) -> int:
    """Return how many connections a server has accepted."""
    return server.log.read_text().count("accepted connection")


@pytest.fixture
def server(realm: Realm) -> Iterator[Server]:
    """A server for a program alone."""
    with realm.server(commands(realm)) as server:
        yield server


# gunicorn's own process, the workers' parent, uses the pool before the fork and later.
PARENT = """\
from web_pool import application, pool
pool.run(["test", "hello"])
"""
HOOKS = """\
def child_exit(server, worker):
    import parent
    print("parent:", parent.pool.run(["test", "hello"]).stdout, parent.pool)
"""

WORKERS = {"sync": 1, "gthread": 8, "gevent": 8}  # and connections at most


@pytest.mark.parametrize("worker", WORKERS)
@pytest.mark.parametrize("preload", [False, True], ids=["", "preload"])
def test_gunicorn(
    worker: str, preload: bool, realm: Realm, server: Server, tmp_path: Path
) -> None:
    """Requests get their own answers, and no process another one's connections."""
    options = ["-k", worker, "-b", "127.0.0.1:0", "--threads", str(WORKERS[worker])]
    module = "web_pool"
    if preload:
        module = "parent"
        options.append("--preload")
        (tmp_path / "parent.py").write_text(PARENT)
        (tmp_path / "gunicorn.conf.py").write_text(HOOKS)
    with running(
        server, tmp_path, "gunicorn", *options, module, ready="Booting worker"
    ) as log:
        address = re.findall(r"Listening at: (\S+)", log())[0]
        check_requests(address, realm)
        opened = accepted(server)
        assert preload < opened <= preload + WORKERS[worker]
    if preload:
        assert "parent: b'hello world\\n' <remctl.Pool" in log()
        assert accepted(server) == opened


def test_gunicorn_without_a_server(
    realm: Realm, server: Server, tmp_path: Path
) -> None:
    """Requests are answered with 503 until the server is back."""
    options = ["-b", "127.0.0.1:0", "web_pool"]
    with running(server, tmp_path, "gunicorn", *options, ready="Booting") as log:
        address = re.findall(r"Listening at: (\S+)", log())[0]
        check_requests(address, realm)
        server.stop()
        with pytest.raises(urllib.error.HTTPError) as caught:
            get(f"{address}/name")
        caught.value.close()
        assert caught.value.code == 503
        server.start()
        check_requests(address, realm)


def test_uvicorn(realm: Realm, server: Server, tmp_path: Path) -> None:
    """Requests get their own answers, on few connections; then the pool is closed."""
    command = ["uvicorn", "--port", "0", "asgi_pool:application"]
    with running(server, tmp_path, *command, ready="running on") as log:
        address = re.findall(r"running on (\S+)", log())[0]
        check_requests(address, realm)
        assert 1 <= accepted(server) <= 8
        server.stop()
        with pytest.raises(urllib.error.HTTPError) as caught:
            get(f"{address}/name")
        caught.value.close()
        assert caught.value.code == 503
        server.start()
        check_requests(address, realm)
    assert "application shutdown complete" in log().lower()


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_processes(method: str, realm: Realm, server: Server) -> None:
    """Each has connections of its own, and disturbs none of its parent's."""
    result = subprocess.run(
        [sys.executable, str(EXAMPLES / "processes_pool.py"), method],
        env=environment(server),
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [f"{realm.user} {n}" for n in range(10)]
    assert 2 <= accepted(server) <= 3  # the parent's, and those of one child or two


CELERY = """\
broker_url = "filesystem://"
broker_transport_options = {"data_folder_in": "queue", "data_folder_out": "queue"}
result_backend = "file://results"
worker_hijack_root_logger = False
"""

ASK = """\
import sys
from celery_pool import user
results = [user.delay(name) for name in sys.argv[1:]]
print(*[result.get(timeout=600) for result in results], sep="", end="")
"""


def test_celery(realm: Realm, server: Server, tmp_path: Path) -> None:
    """Each task gets its own reply, and is tried again while there is no server."""
    (tmp_path / "celeryconfig.py").write_text(CELERY)
    for name in ("queue", "results"):
        (tmp_path / name).mkdir()

    @contextmanager
    def asking(*names: str) -> Iterator[None]:
        """Ask for the users while the block runs, and see the replies."""
        with subprocess.Popen(
            [sys.executable, "-c", ASK, *names],
            cwd=tmp_path,
            env=environment(server),
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            yield
            stdout, _ = process.communicate(timeout=HANG)
        assert stdout == "".join(f"{realm.user} {name}\n" for name in names)

    command = ["celery", "-A", "celery_pool", "worker", "-c", "2", "-l", "INFO"]
    with running(server, tmp_path, *command, ready=" ready.") as log:
        with asking(*map(str, range(20))):
            pass
        assert 1 <= accepted(server) <= 2  # a connection for each process
        server.stop()
        with asking("late"):
            wait_until(lambda: "Retry in 1s" in log())
            server.start()
