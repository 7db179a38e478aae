# SPDX-License-Identifier: MIT
"""Start a scripted server in a test, follow its log and let it pass its barriers.

What a script can say is described in ``scripted_server.py``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support import HANG

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from typing_extensions import Self

PYTHON = "/usr/bin/python3"
SERVER = Path(__file__).with_name("scripted_server.py")


class ScriptedServers:
    """Starts scripted servers; a context manager that lets no more be started.

    env is laid over the process's own environment and has to name the keytab
    (KRB5_KTNAME) and the realm (KRB5_CONFIG).
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        """Start the process that they are forks of."""
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                # -I: settings for the tested interpreter must not reach this one.
                [PYTHON, "-I", str(SERVER), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, **env},
            )

    def start(
        self, connections: Sequence[Sequence[Any]], *, ipv6: bool = False
    ) -> ScriptedServer:
        """Start a server, and return when it listens.

        Each item of connections is the list of steps of one connection, the last one
        serving all later connections too. Raises RuntimeError, with the server's
        reason, if it does not start.
        """
        reading, stdin = os.pipe()
        stdout, writing = os.pipe()
        try:
            socket.send_fds(self._control, [b"+"], [reading, writing])
        finally:
            os.close(reading)
            os.close(writing)
        script = json.dumps({"connections": connections, "ipv6": ipv6})
        return ScriptedServer(script, stdin, stdout)

    def __enter__(self) -> Self:
        """Return the object itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self._control.close()
        # A forked child of a test may hold a copy of the socket.
        self._process.terminate()
        self._process.wait()


class ScriptedServer:
    """A running scripted server; a context manager that ends it."""

    def __init__(self, script: str, stdin: int, stdout: int) -> None:
        """Send the server its script, and wait until it listens."""
        self.port = 0
        self.events: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._ended = False
        self._pid = 0
        self._stdin = os.fdopen(stdin, "wb")
        self._stdout = os.fdopen(stdout, "rb")
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self._send(script.encode())
            listening = self.wait_for("listening")
        except (AssertionError, BrokenPipeError) as error:
            self.close()
            message = f"the scripted server did not start: {error}"
            raise RuntimeError(message) from None
        self.port, self._pid = listening["port"], listening["pid"]

    def _send(self, line: bytes) -> None:
        self._stdin.write(line + b"\n")
        self._stdin.flush()

    def _read(self) -> None:
        """Collect the log until the server ends."""
        for line in self._stdout:
            if not line.endswith(b"\n"):
                break  # SIGTERM came in the middle of it
            event = json.loads(line)
            with self._changed:
                self.events.append(event)
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait_for(
        self,
        event: str,
        connection: int | None = None,
        timeout: float = HANG,
        *,
        nth: int = 1,
        **fields: object,
    ) -> dict[str, Any]:
        """Return the first (or nth) such event, as soon as it is in the log.

        Raises AssertionError, with the whole log, when the time is over or the server
        has ended.
        """
        wanted: dict[str, object] = {"event": event, **fields}
        if connection is not None:
            wanted["connection"] = connection

        def found() -> dict[str, Any] | None:
            matches = [e for e in self.events if {**e, **wanted} == e]
            return matches[nth - 1] if len(matches) >= nth else None

        with self._changed:
            self._changed.wait_for(lambda: found() or self._ended, timeout)
            result = found()
            if result is None:
                why = "the server ended" if self._ended else f"{timeout} s are over"
                log = "\n".join(map(json.dumps, self.events))
                message = f"no {wanted} (number {nth}): {why}; the log:\n{log}"
                raise AssertionError(message)
            return result

    def proceed(self) -> None:
        """Let one barrier pass, now or when it is reached."""
        self._send(b"")

    def close(self) -> None:
        """End the server; its log stays readable."""
        # A forked child of the test may hold a copy of the pipe: closing is not enough.
        if self._pid and not self._ended:
            os.kill(self._pid, signal.SIGTERM)
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()
        self._reader.join()
        self._stdout.close()

    def __enter__(self) -> Self:
        """Return the running server."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the server."""
        self.close()
