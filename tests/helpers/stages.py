# SPDX-License-Identifier: MIT
"""The places where a call can block for ever, for tests that end it from outside.

``with STAGES[name](scripted) as stage`` has a server (a KDC, a name service) that is
mute at this place.  ``stage.prepare(client)`` leads there, ``stage.call(client)``
blocks, and ``stage.wait_for(thread)`` waits until it does.  ``stage.let_go()`` ends
what the package cannot reach: a thread of the shim inside libc, libkrb5 or libremctl.
"""

from __future__ import annotations

import gc
import os
import re
import socket
import sys
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

from kerberos import forget_configuration
from names import names
from silent import full
from support import descriptors, wait_until

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

    from scripted import ScriptedServer

    from remctl import Remctl

PRINCIPAL = "host/localhost@KRBTEST.COM"
LARGE = b"x" * 16_000_000
OPEN = ["handshake", {"stop": ["hang", 2]}]
OPEN1 = ["handshake", {"protocol": 1}]


class Stage(NamedTuple):
    """A place where a call blocks."""

    prepare: Callable[[Remctl], object]
    call: Callable[[Remctl], object]
    arrived: Callable[[], object]
    let_go: Callable[[], object]

    def wait_for(self, thread: threading.Thread) -> None:
        """Wait until the call, in ``thread``, blocks."""
        self.arrived()
        wait_until(partial(blocked, thread))


def blocked(thread: threading.Thread) -> bool:
    """Whether ``thread`` is where the package's calls wait, and asleep in the kernel.

    A signal that comes right before the system call does not end it.
    """
    seen = []
    for _ in range(2):
        frame = sys._current_frames().get(thread.ident or 0)
        if frame is None or not frame.f_code.co_filename.endswith("_waiting.py"):
            return False
        status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
        seen.append(re.findall(r"State:\s+S|ctxt_switches:.*", status))
        time.sleep(0.01)
    return len(seen[0]) == 3 and seen[0] == seen[1]


def in_use() -> tuple[int, int]:
    """Return how many descriptors and threads there are, those in C included."""
    return descriptors(), len(list(Path("/proc/self/task").iterdir()))


def wait_for_release(before: tuple[int, int]) -> None:
    """Wait until no more is in use than ``before``."""

    def released() -> bool:
        gc.collect()
        return all(now <= then for now, then in zip(in_use(), before))

    wait_until(released)


def nothing(*_: object) -> None:
    """Do nothing."""


def open_on(port: int, client: Remctl) -> None:
    client.open("127.0.0.1", port, PRINCIPAL)


@contextmanager
def connecting(_: Callable[..., ScriptedServer]) -> Iterator[Stage]:
    """A server whose queue of connections is full: the kernel ignores others."""
    with full() as port:
        yield Stage(nothing, partial(open_on, port), nothing, nothing)


@contextmanager
def resolving(_: Callable[..., ScriptedServer]) -> Iterator[Stage]:
    """A mute name service."""
    with names().know("mute.invalid", mute=True) as service:
        yield Stage(
            nothing,
            lambda client: client.open("mute.invalid", 1),
            service.wait_until_asked,
            service.answer,
        )


@contextmanager
def asking_kdc(_: Callable[..., ScriptedServer]) -> Iterator[Stage]:
    """A mute KDC, which the client has to ask for a ticket."""
    with ExitStack() as stack:
        server, kdc = (
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in "12"
        )
        conf = Path(os.environ["KRB5_CONFIG"])
        kdc_port = kdc.getsockname()[1]
        mute_conf = conf.with_name(f"mute-{kdc_port}.conf")
        mute_conf.write_text(
            re.sub(r"(kdc = 127.0.0.1):\d+", rf"\1:{kdc_port}", conf.read_text())
        )
        os.environ["KRB5_CONFIG"] = str(mute_conf)
        forget_configuration()

        def call(client: Remctl) -> None:
            client.open("127.0.0.1", server.getsockname()[1], "nobody@KRBTEST.COM")

        def asked() -> None:
            stack.enter_context(kdc.accept()[0])

        yield Stage(nothing, call, asked, stack.close)


def script(
    prepare: Callable[[Remctl], object] | None,
    call: Callable[[Remctl], object] | None,
    event: dict[str, Any],
    *connections: list[Any],
) -> Callable[[Callable[..., ScriptedServer]], Any]:
    """A scripted server; open() comes before ``prepare``, or is itself the call."""

    @contextmanager
    def stage(scripted: Callable[..., ScriptedServer]) -> Iterator[Stage]:
        server = scripted(*connections)
        open_here = partial(open_on, server.port)

        def open_and_prepare(client: Remctl) -> None:
            open_here(client)
            if prepare is not None:
                prepare(client)

        yield Stage(
            nothing if call is None else open_and_prepare,
            open_here if call is None else call,
            partial(server.wait_for, **event),
            server.close if len(connections) > 1 else nothing,
        )

    return stage


def command(client: Remctl) -> None:
    client.command(["test", "command"])


def large_command(client: Remctl) -> None:
    client.command(["test", "command", LARGE])


def output(client: Remctl) -> object:
    return client.output()


def noop(client: Remctl) -> object:
    return client.noop()


STAGES: dict[str, Callable[[Callable[..., ScriptedServer]], Any]] = {
    "connect": connecting,
    "name service": resolving,
    "handshake": script(None, None, {"event": "stopped"}, [OPEN]),
    "kdc": asking_kdc,
    "output": script(
        command, output, {"event": "command"}, ["handshake", "read", "hang"]
    ),
    "half a token": script(
        command,
        output,
        {"event": "sent", "step": "output"},
        ["handshake", "read", ["output", {"size": 1000, "cut": 500}], "hang"],
    ),
    "large write": script(
        None, large_command, {"event": "handshake"}, ["handshake", "stop_reading"]
    ),
    "noop": script(None, noop, {"event": "noop"}, ["handshake", "read", "hang"]),
    # Connection 0 is for the question which protocol it is.
    "protocol 1 handshake": script(
        None,
        command,
        {"event": "stopped", "connection": 1},
        [OPEN1],
        [["handshake", {"protocol": 1, "stop": ["hang", 2]}]],
    ),
    "protocol 1 command": script(
        None, command, {"event": "command"}, [OPEN1], [OPEN1, "read", "hang"]
    ),
    "protocol 1 output": script(
        command,
        output,
        {"event": "sent", "step": "mic"},
        [OPEN1],
        [OPEN1, "read", "mic", "hang"],
    ),
}
