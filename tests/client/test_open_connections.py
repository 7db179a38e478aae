# SPDX-License-Identifier: MIT
"""What connections that stay open go through: docs/howto/connections.md."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import wait_until

import remctl
from remctl.testing import Command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from remctl.testing import Realm, Server

USER = ["test", "user"]
COMMANDS = {"test user": 'echo "$REMOTE_USER"'}


@pytest.fixture
def own_server(realm: Realm) -> Iterator[Server]:
    """A remctld that a test may change or end."""
    with realm.server(COMMANDS) as own_server:
        yield own_server


@pytest.fixture
def client(own_server: Server) -> Iterator[remctl.Remctl]:
    """An open connection to it."""
    with remctl.Remctl(own_server.host, own_server.port) as client:
        yield client


@pytest.fixture
def pool(own_server: Server) -> Iterator[remctl.Pool]:
    """A pool that has an open connection to it."""
    with remctl.Pool(own_server.host, own_server.port) as pool:
        pool.run(USER)
        yield pool


def processes(server: Server) -> list[int]:
    """Return the processes in which remctld serves its connections."""
    path = f"/proc/{server.pid}/task/{server.pid}/children"
    return list(map(int, Path(path).read_text().split()))


def refuses(server: Server) -> bool:
    """Whether nobody listens on the server's port."""
    try:
        socket.create_connection((server.host, server.port)).close()
    except ConnectionRefusedError:
        return True
    return False


# The server


def test_remctld_ends(
    own_server: Server, realm: Realm, client: remctl.Remctl, pool: remctl.Pool
) -> None:
    """Its connections go on, as their processes let SIGTERM pass."""
    connections = processes(own_server)
    os.kill(own_server.pid, signal.SIGTERM)
    wait_until(lambda: refuses(own_server))
    for process in connections:
        os.kill(process, signal.SIGTERM)
    time.sleep(0.1)
    assert client.noop()
    for each in client, pool:
        assert each.run(USER).stdout == f"{realm.user}\n".encode()


def test_a_connection_is_killed(
    own_server: Server, client: remctl.Remctl, pool: remctl.Pool
) -> None:
    """The object has to be opened again; the pool opens another connection."""
    for process in processes(own_server):
        os.kill(process, signal.SIGKILL)
    time.sleep(0.1)
    with pytest.raises(remctl.RemctlError, match="closed the connection"):
        client.run(USER)
    with pytest.raises(remctl.RemctlNotOpenedError):
        client.run(USER)
    assert pool.run(USER).status == 0
    client.open()
    assert client.run(USER).status == 0


# Permissions


def code(client: remctl.Remctl | remctl.Pool, command: list[str]) -> int | None:
    """Return the code of the server's error, or None if it runs the command."""
    try:
        client.run(command).check()
    except remctl.RemctlProtocolError as error:
        return error.code
    return None


def test_remctl_conf_changes(
    own_server: Server, realm: Realm, client: remctl.Remctl, pool: remctl.Pool
) -> None:
    """Open connections keep what it said: the pool's, up to ``max_age``."""
    server = own_server.host, own_server.port
    short = remctl.Pool(*server, max_age=1)
    assert code(short, USER) is None
    denied = Command("true", acl=[f"deny:princ:{realm.user}", "ANYUSER"])
    own_server.reload({"test user": denied, "test new": "true"})
    time.sleep(1.1)
    for each in client, pool:
        assert code(each, USER) is None
        assert code(each, ["test", "new"]) == remctl.ErrorCode.UNKNOWN_COMMAND
    with short, remctl.Remctl(*server) as other:
        for new in short, other:
            assert code(new, USER) == remctl.ErrorCode.ACCESS
            assert code(new, ["test", "new"]) is None


def test_an_acl_file_changes(realm: Realm, tmp_path: Path) -> None:
    """remctld reads it for each command."""
    acl = tmp_path / "acl"
    acl.write_text(f"{realm.user}\n")
    commands = {"test user": Command("true", acl=[f"file:{acl}"])}
    with realm.server(commands) as server:
        with remctl.Remctl(server.host, server.port) as client:
            assert code(client, USER) is None
            acl.write_text("nobody@EXAMPLE.COM\n")
            assert code(client, USER) == remctl.ErrorCode.ACCESS


# Tickets


def test_a_ticket_expires(own_server: Server, realm: Realm, tmp_path: Path) -> None:
    """Connections go on; a new one needs a new ticket."""
    server = own_server.host, own_server.port
    cache = realm.kinit(realm.user, tmp_path / "cache", "-l", "2s")
    short = remctl.Pool(*server, ccache=cache, max_age=1)
    pool = remctl.Pool(*server, ccache=cache)
    with short, pool, pool.connection() as client:
        assert short.run(USER).status == 0
        time.sleep(4)
        assert client.noop()
        assert client.run(USER).status == 0
        with pytest.raises(remctl.RemctlError) as caught:
            short.run(USER)
        assert caught.value.stage == "authenticate"
        realm.kinit(realm.user, cache)
        assert short.run(USER).status == 0


def test_a_cache_gets_other_tickets(
    own_server: Server, realm: Realm, tmp_path: Path
) -> None:
    """Connections keep the identity that they were opened with, a pool's, too."""
    cache = realm.kinit("alice", tmp_path / "cache")
    with remctl.Pool(own_server.host, own_server.port, ccache=cache) as pool:
        with pool.connection() as first:
            realm.kinit("bob", cache)
            with pool.connection() as second:
                users = [client.run(USER).stdout for client in (first, second)]
    assert users == [b"alice@KRBTEST.COM\n", b"bob@KRBTEST.COM\n"]


# Commands whose client has left


def test_a_command_goes_on_without_its_client(realm: Realm, tmp_path: Path) -> None:
    """To its end; if it has something to say, it gets an error or SIGPIPE."""
    go, quiet, loud = (tmp_path / name for name in ("go", "quiet", "loud"))
    commands = {
        "test quiet": f"while [ ! -e {go} ]; do sleep 0.1; done; echo done >{quiet}",
        "test loud": f"trap '' PIPE; while echo 1; do sleep 0.1; done; echo $? >{loud}",
    }
    with realm.server(commands) as server:
        pool = remctl.Pool(server.host, server.port, timeout=0.3)
        with pool, pytest.raises(remctl.RemctlTimeoutError):
            pool.run(["test", "quiet"])
        with remctl.Remctl(server.host, server.port) as client:
            client.command(["test", "loud"])
            client.output()
        go.touch()
        wait_until(lambda: quiet.exists() and loud.exists())
