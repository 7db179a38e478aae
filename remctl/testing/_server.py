# SPDX-License-Identifier: MIT
"""A real remctld on loopback, with the commands of a test."""

from __future__ import annotations

import ipaddress
import os
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from remctl.testing import _commands
from remctl.testing._daemon import (
    Daemon,
    Port,
    StartError,
    programs,
    start_on_free_port,
)

if TYPE_CHECKING:
    from types import TracebackType

    from remctl.testing._commands import Commands
    from remctl.testing._realm import Realm

# What remctld logs when it begins to read remctl.conf again.
_READING = b"re-reading configuration"


class Server:
    """A remctld of a realm, which lasts as long as the ``with`` block.

    Realm.server() makes it.  Its files stay until the realm ends.

    Entering it blocks, for some milliseconds, and raises MissingError where remctld
    is not installed, StartError with what remctld said where it does not start, and
    ValueError where the realm's directory has a space in its path, which remctl.conf
    cannot hold.
    """

    def __init__(self, realm: Realm, commands: Commands, *, address: str) -> None:
        """Check the arguments; start nothing yet."""
        if not ipaddress.ip_address(address).is_loopback:
            raise ValueError(f"not a loopback address: {address}")
        self._realm = realm
        self._address = address
        self._commands = _commands.checked(commands)
        self._directory: Path | None = None
        self._owner = 0
        self._port: Port | None = None
        self._daemon: Daemon | None = None

    @property
    def host(self) -> str:
        """The host to connect to."""
        # Not every resolver gives localhost an IPv6 address, too.
        return "localhost" if self._address == "127.0.0.1" else self._address

    @property
    def port(self) -> int:
        """The port, which stays the same until the ``with`` block ends."""
        if self._port is None:
            raise RuntimeError("the server is not in its with block")
        return self._port.number

    @property
    def principal(self) -> str:
        """The principal it authenticates as, the realm's `service`."""
        return self._realm.service

    @property
    def pid(self) -> int:
        """The process id of the remctld that accepts connections."""
        return self._running().pid

    @property
    def log(self) -> Path:
        """The file with all that remctld says, debugging messages included."""
        return self._files() / "log"

    def reload(self, commands: Commands) -> None:
        """Replace the commands, by a new remctl.conf and SIGHUP.

        Open connections keep the commands that they began with.

        Args:
            commands: As in Realm.server().

        Raises:
            TypeError, ValueError: As Realm.server(); nothing has changed.
            StartError: remctld has ended; the text has what it said.

        Blocks until remctld has read them.

        """
        daemon = self._running()
        self._commands = _commands.checked(commands)
        self._configure()
        start = self.log.stat().st_size
        try:
            # It logs when it begins to read.  A second such line shows that it has read
            # the file once after the first signal.
            daemon.signal_until(
                signal.SIGHUP,
                lambda: self.log.read_bytes()[start:].count(_READING) >= 2,
            )
        except StartError:
            self.stop()
            raise

    def start(self) -> None:
        """Start remctld again on the same port, after stop() or kill().

        Raises StartError, with what remctld said, when it does not start, and
        RuntimeError when it is running or outside of the ``with`` block.  Blocks
        until it listens.
        """
        if self._daemon is not None:
            raise RuntimeError("the server is running")
        self._daemon = self._start(self.port)

    def stop(self) -> None:
        """End remctld, its connections and their commands; harmless if it has.

        Blocks, normally for some milliseconds, until no process of the server is left,
        and so no connection is open.  remctld has two seconds to end by itself; then
        all are killed.  Raises StartError, with the process ids, if some are left ten
        seconds later.  Not found are commands that have left their session and dropped
        their environment, and, on systems other than Linux, commands that have left
        their process group.
        """
        if self._daemon is not None:
            self._daemon.stop()
            self._daemon = None

    def kill(self) -> None:
        """End remctld, its connections and their commands with SIGKILL.

        Blocks, and raises StartError, as stop() does.
        """
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon = None

    def __enter__(self) -> Server:
        """Start remctld, and return the server."""
        if self._port is not None:
            raise RuntimeError("the server has been started")
        self._owner = os.getpid()
        # Inside the realm's directory, which goes away with the realm.
        prefix = "remctld-"
        self._directory = Path(
            tempfile.mkdtemp(prefix=prefix, dir=self._realm.directory)
        )
        self._directory.chmod(0o711)
        self._configure()
        self._port, self._daemon = start_on_free_port(self._address, self._start)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End remctld."""
        if self._owner != os.getpid():
            return
        try:
            self.stop()
        finally:
            port, self._port = self._port, None
            if port is not None:
                port.release()

    def _running(self) -> Daemon:
        if self._daemon is None:
            raise RuntimeError("the server is not running")
        return self._daemon

    def _files(self) -> Path:
        if self._directory is None:
            raise RuntimeError("the server has not been started")
        return self._directory

    def _configure(self) -> None:
        """Write remctl.conf and new snippets; commands that run keep the old ones."""
        snippets = Path(tempfile.mkdtemp(prefix="commands-", dir=self._files()))
        snippets.chmod(0o711)
        conf = snippets / "remctl.conf"
        text = _commands.write(self._commands, snippets)
        conf.write_bytes(text.encode("utf-8", "surrogateescape"))
        conf.replace(self._files() / "remctl.conf")

    def _start(self, port: int) -> Daemon:
        remctld = programs({"remctld": "remctl-server"})["remctld"]
        # remctld writes its process id once its socket listens, and not before.
        pid_file = self._files() / "pid"
        pid_file.unlink(missing_ok=True)
        command = [remctld, "-m", "-F", "-S", "-d", "-p", str(port)]
        command += ["-b", self._address, "-s", self.principal]
        command += ["-k", str(self._realm.keytab)]
        command += ["-f", str(self._files() / "remctl.conf"), "-P", str(pid_file)]
        return Daemon(
            command,
            env={**os.environ, **self._realm.env},
            output=self.log,
            ready=pid_file.exists,
        )
