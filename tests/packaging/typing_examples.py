# SPDX-License-Identifier: MIT
"""What users write, with the types that they get: checked by mypy, never run.

A "type: ignore" marks what must not pass; where it does, mypy calls it unused.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, Optional

from typing_extensions import assert_type

import _remctl
import remctl
from remctl.backend import Backend, Caller
from remctl.testing import Call, Command, FakeRemctl, Realm, Server

if TYPE_CHECKING:
    import os
    import socket
    from collections.abc import Iterator


def one_command(path: os.PathLike[str], arguments: Iterator[str]) -> None:
    result = remctl.remctl("host", command=["a", b"b", 3, path, bytearray(b"c")])
    assert_type(result, remctl.RemctlSimpleResult)
    assert_type(result.stdout, Optional[bytes])
    assert_type(result.stderr, Optional[bytes])
    assert_type(result.status, int)
    assert_type(result.check(), remctl.RemctlSimpleResult)
    assert_type(result.text("latin-1", errors="replace"), str)
    assert_type(result.json(), Any)
    result.text(errors=None)  # type: ignore[arg-type]
    remctl.remctl("host", "4373", None, arguments, timeout=0.5, ccache="c")
    remctl.remctl("host", b"4373", None, arguments, ccache=path)
    remctl.remctl("host", 4373, "host/host", ("a", "b"), source_ip="::1")
    remctl.remctl(b"host", command=["a"])  # type: ignore[arg-type]
    remctl.remctl("host", 4373.5, command=["a"])  # type: ignore[arg-type]
    remctl.remctl("host", command=7)  # type: ignore[arg-type]
    remctl.remctl("host", command=["a"], timeout="1")  # type: ignore[arg-type]
    remctl.remctl("host", 0, None, ["a"], 1)  # type: ignore[call-arg]
    remctl.nonsense()  # type: ignore[attr-defined]
    assert_type(remctl.__version__, str)
    assert_type(remctl.VERSION, str)
    assert_type(remctl.testing.aio.FakeRemctl().commands, list[list[bytes]])


def stages(error: remctl.RemctlError, stage: remctl.Stage) -> None:
    assert_type(error.stage, Optional[remctl.Stage])
    assert_type(stage, Literal["resolve", "connect", "authenticate", "send", "reply"])
    made = remctl.RemctlProtocolError("a", 6, "reply")
    assert_type(made.stage, Optional[remctl.Stage])
    remctl.RemctlTimeoutError("a", stage="send")
    remctl.RemctlError("a", "tcp")  # type: ignore[arg-type]


def many_commands(sock: socket.socket) -> None:
    with remctl.Remctl("host", timeout=3) as client:
        assert_type(client, remctl.Remctl)
        assert_type(client.run(["a"]), remctl.RemctlSimpleResult)
        for token in client:
            assert_type(token, remctl.RemctlOutput)
        kind, output, stream, status, error = client.output()
        assert_type(kind, Literal["output", "status", "error", "done"])
        assert_type(output, Optional[bytes])
        assert_type(stream, Optional[int])
        assert_type(status, Optional[int])
        assert_type(error, Optional[int])
        assert_type(client.noop(), bool)
        assert_type(client.error(), str)
        assert_type(client.opened, bool)
        assert_type(client.fileno(), int)
    client.open("host", sock=sock)
    client.open(None)  # type: ignore[arg-type]
    client.set_ccache(b"ccache")  # type: ignore[arg-type]
    client.set_timeout(None)  # type: ignore[arg-type]
    client.opened = True  # type: ignore[misc]
    answer = client.command(["a"])  # type: ignore[func-returns-value]
    assert_type(answer, None)


async def with_asyncio() -> None:
    result = await remctl.aio.remctl("host", command=["a"], timeout=1)
    assert_type(result, remctl.RemctlSimpleResult)
    async with remctl.aio.Remctl("host") as client:
        assert_type(client, remctl.aio.Remctl)
        assert_type(await client.run(["a"]), remctl.RemctlSimpleResult)
        assert_type(await client.output(), remctl.RemctlOutput)
        assert_type(await client.noop(), bool)
        async for token in client:
            assert_type(token, remctl.RemctlOutput)
        assert_type(client.opened, bool)
    len(remctl.aio.remctl("host", command=["a"]))  # type: ignore[arg-type]


def pools(pool: remctl.Pool) -> None:
    assert_type(pool.run(["a"]), remctl.RemctlSimpleResult)
    with pool, pool.connection() as client:
        assert_type(client, remctl.Remctl)
        client.open()
    remctl.Pool("host", 1, max_age=None, wait=0.5, size=3)
    remctl.Pool("host", size="3")  # type: ignore[arg-type]


async def pools_of_tasks(pool: remctl.aio.Pool) -> None:
    assert_type(await pool.run(["a"]), remctl.RemctlSimpleResult)
    async with pool, pool.connection() as client:
        assert_type(client, remctl.aio.Remctl)
        await client.open()


def for_tests(fake: FakeRemctl) -> None:
    with Realm() as realm, realm.server({"test hello": "echo hello"}) as server:
        assert_type(realm, Realm)
        assert_type(realm.env, dict[str, str])
        assert_type(server, Server)
        assert_type(server.port, int)
        assert_type(realm.kinit("alice"), str)
        realm.server({"test hello": Command("cat", stdin="last", acl=["ANYUSER"])})
        realm.server({"test": 7})  # type: ignore[dict-item]
    client: remctl.Remctl = fake("host")
    assert_type(client.run(["a"]), remctl.RemctlSimpleResult)
    assert_type(fake.commands, list[list[bytes]])
    assert_type(fake.calls, list[Call])
    assert_type(fake.calls[0].port, Optional[int])
    assert_type(fake.remctl("host", command=["a"]), remctl.RemctlSimpleResult)
    FakeRemctl(lambda call: remctl.RemctlSimpleResult(call.command[0], None, 0))
    FakeRemctl(lambda call: call.host)  # type: ignore[arg-type,return-value]
    FakeRemctl([remctl.RemctlTimeoutError("late"), [remctl.RemctlOutput("done")]])


def failures(failure: Exception) -> None:
    if isinstance(failure, remctl.RemctlTimeoutError):
        as_error: remctl.RemctlProtocolError = failure
        assert_type(as_error.code, Optional[int])
        as_timeout: TimeoutError = failure
        raise as_timeout
    if isinstance(failure, remctl.RemctlStatusError):
        assert_type(failure.result, remctl.RemctlSimpleResult)
    elif isinstance(failure, remctl.RemctlError):
        assert_type(failure.value, str)


def commands() -> None:
    backend = Backend(command="user", syslog=True)

    @backend.command(args_match={"name": "[a-z]+"}, stdin="image")
    def upload(name: str, image: bytes) -> int:
        return len(name) + len(image)

    assert_type(upload("a", b""), int)
    assert_type(backend.run(["upload", b"a"]), int)
    assert_type(Caller.from_environ().expires, Optional[datetime])
    backend.group("photo").command()(lambda: None)
    backend.command()(lambda: "a")  # type: ignore[type-var]
    backend.command(args_match={"name": 1})  # type: ignore[dict-item]


def low_level() -> None:
    handle = _remctl.remctl_new()
    assert_type(_remctl.remctl_open(handle, "host", 0, None), int)
    assert_type(_remctl.remctl_commandv(handle, [b"a"]), bool)
    assert_type(_remctl.remctl_error(handle), str)
    error, stdout, stderr, status = _remctl.remctl("host", 0, None, [b"a"])
    assert_type(error, Optional[bytes])
    assert_type(stdout, Optional[bytes])
    assert_type(stderr, Optional[bytes])
    assert_type(status, int)
    _remctl.remctl_command(handle, ["a"])  # type: ignore[list-item]
    _remctl.remctl_output("handle")  # type: ignore[arg-type]
