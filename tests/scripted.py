# SPDX-License-Identifier: MIT
"""Start a scripted server in a test, follow its log and let it pass its barriers.

What a script can say is described in ``scripted_server.py``.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from typing_extensions import Self

PYTHON = "/usr/bin/python3"
SERVER = Path(__file__).with_name("scripted_server.py")


class ScriptedServer:
    """A running scripted server; a context manager that ends it.

    Each item of script_connections is the list of steps of one connection, the last one
    serving all later connections too. env is laid over the process's own environment
    and has to name the keytab (KRB5_KTNAME) and the realm (KRB5_CONFIG).
    """

    def __init__(
        self,
        script_connections: Sequence[Sequence[Any]],
        env: Mapping[str, str],
        *,
        ipv6: bool = False,
    ) -> None:
        """Start the server and wait until it listens.

        Raises RuntimeError, with the server's reason, if it does not start.
        """
        self.port = 0
        self.events: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._ended = False
        # -I: settings for the tested interpreter must not reach this one.
        command = [PYTHON, "-I", str(SERVER), *(["--ipv6"] if ipv6 else [])]
        with tempfile.NamedTemporaryFile("w", suffix=".json") as script:
            # In a file, as one argument is limited to 128 KiB.
            json.dump({"connections": script_connections}, script)
            script.flush()
            try:
                self._process = subprocess.Popen(
                    [*command, "@" + script.name],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env={**os.environ, **env},
                )
            except OSError as error:
                message = (
                    f"cannot run {PYTHON}: {error}; the scripted server needs the "
                    "Debian packages python3 and python3-gssapi"
                )
                raise RuntimeError(message) from error
            self._reader = threading.Thread(target=self._read, daemon=True)
            self._reader.start()
            try:
                self.port = self.wait_for("listening")["port"]
            except AssertionError as error:
                self.close()
                message = f"the scripted server did not start: {error}"
                raise RuntimeError(message) from None

    def _read(self) -> None:
        """Collect the log until the server ends."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
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
        timeout: float = 20,
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
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()

    def close(self) -> None:
        """End the server; its log stays readable."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        # A forked child of the test may hold a copy of the pipe: closing is not enough.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.terminate()
        self._process.wait()
        self._reader.join()
        self._process.stdout.close()

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
