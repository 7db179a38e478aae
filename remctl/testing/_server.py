# SPDX-License-Identifier: MIT
"""A real remctld on loopback, with a configuration of one's own."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from remctl.testing._daemon import Daemon, Port, programs, start_on_free_port

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from remctl.testing._realm import Realm


class Server:
    """A remctld for a realm, which lasts as long as the ``with`` block.

    The configuration is the text of a remctl.conf, or its lines.  `host`, `port` and
    `principal` are what a client needs to connect; `log` is a file with all that
    remctld says, debugging messages included.

    Raises StartError, with what remctld said, when it does not start.
    """

    def __init__(
        self, realm: Realm, conf: str | Iterable[str], *, address: str = "127.0.0.1"
    ) -> None:
        self.realm = realm
        self.address = address
        # A resolver need not know that localhost has an IPv6 address as well.
        self.host = "localhost" if address == "127.0.0.1" else address
        self.principal = realm.service
        self._conf = conf if isinstance(conf, str) else "\n".join(conf) + "\n"
        self._owner = 0
        self._port: Port | None = None
        self._daemon: Daemon | None = None

    @property
    def port(self) -> int:
        """The port, which stays the same until the ``with`` block ends."""
        if self._port is None:
            raise RuntimeError("the server has not been started")
        return self._port.number

    @property
    def pid(self) -> int:
        """The process id of the remctld that accepts connections."""
        if self._daemon is None:
            raise RuntimeError("the server is not running")
        return self._daemon.pid

    def __enter__(self) -> Server:
        self._owner = os.getpid()
        # Inside the realm's directory, which goes away with the realm.
        prefix = "remctld-"
        self.directory = Path(tempfile.mkdtemp(prefix=prefix, dir=self.realm.directory))
        self.log = self.directory / "log"
        (self.directory / "remctl.conf").write_text(self._conf, encoding="utf-8")
        self._port, self._daemon = start_on_free_port(self.address, self._start)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._owner != os.getpid():
            return
        try:
            self.stop()
        finally:
            if self._port is not None:
                self._port.release()

    def start(self) -> None:
        """Start remctld again on the same port, after stop() or kill()."""
        if self._daemon is not None:
            raise RuntimeError("the server is running")
        self._daemon = self._start(self.port)

    def stop(self) -> None:
        """End remctld, its connections and their commands; harmless if it has."""
        if self._daemon is not None:
            self._daemon.stop()
            self._daemon = None

    def kill(self) -> None:
        """End remctld, its connections and their commands with SIGKILL."""
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon = None

    def _start(self, port: int) -> Daemon:
        remctld = programs({"remctld": "remctl-server"})["remctld"]
        # remctld writes its process id once its socket listens, and not before.
        pid_file = self.directory / "pid"
        pid_file.unlink(missing_ok=True)
        command = [remctld, "-m", "-F", "-S", "-d", "-p", str(port), "-b", self.address]
        command += ["-s", self.principal, "-k", str(self.realm.keytab)]
        command += ["-f", str(self.directory / "remctl.conf"), "-P", str(pid_file)]
        return Daemon(
            command,
            env={**os.environ, **self.realm.env},
            output=self.log,
            ready=pid_file.exists,
        )
