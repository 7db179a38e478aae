# SPDX-License-Identifier: MIT
"""A Kerberos realm with its own KDC, in one directory."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from remctl.testing._daemon import Daemon, MissingError, start_on_free_port
from remctl.testing._server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from remctl.testing._commands import Commands
    from remctl.testing._k5 import K5Realm


class Realm:
    """A Kerberos realm on loopback, which lasts as long as the ``with`` block.

    It begins with two principals: ``user``, whose tickets are in the default
    credential cache of ``env``, and the service ``host/localhost``, whose keys are in
    ``keytab``.  Others are made by principal().

    Nothing is changed outside of its directory: give programs ``env``, or use
    applied().  Several realms may run at the same time, also with the same name.  If
    the process ends without leaving the block, even if it is killed, the KDC is ended
    and the directory removed.  A forked child can use the realm, but does not end it.

    The KDC is that of MIT Kerberos.  Heimdal's has not been tried.  It would need a
    [kdc] section in krb5.conf in place of kdc.conf, a database made with ``kadmin
    --local`` (stash, init, add, ext_keytab), ``kdc --config-file`` with its ports as
    the server, another way to see that it listens, and ``kinit
    --password-file=STDIN``; k5test's HeimdalRealm has most of that.

    Args:
        name: The realm's name: letters, digits, dots and hyphens.

    Entering it blocks for about a tenth of a second.  It raises MissingError if a
    program or k5test is not installed, and StartError if a program fails.

    """

    def __init__(self, name: str = "KRBTEST.COM") -> None:
        """Check the name; __enter__() starts the realm."""
        if not re.fullmatch("[A-Za-z0-9.-]+", name):
            raise ValueError(f"not a name for a realm: {name!r}")
        self._name = name
        self._directory: Path | None = None
        self._k5: K5Realm | None = None
        self._kdc: Daemon | None = None
        self._principals: set[str] = set()

    @property
    def name(self) -> str:
        """The realm's name."""
        return self._name

    @property
    def user(self) -> str:
        """The principal whose tickets are in the default credential cache."""
        return f"user@{self.name}"

    @property
    def service(self) -> str:
        """The principal of the servers on localhost."""
        return f"host/localhost@{self.name}"

    @property
    def directory(self) -> Path:
        """The directory of all files, which is removed with the realm."""
        if self._directory is None:
            raise RuntimeError("the realm is not running")
        return self._directory

    @property
    def env(self) -> dict[str, str]:
        """The environment variables that make Kerberos use this realm; a copy."""
        return dict(self._running().env)

    @property
    def keytab(self) -> Path:
        """The keytab of `service`, the default one of `env`."""
        return Path(self._running().keytab)

    @property
    def kdc_pid(self) -> int:
        """The process id of the KDC."""
        if self._kdc is None:
            raise RuntimeError("the realm is not running")
        return self._kdc.pid

    def principal(self, name: str) -> str:
        """Return a principal's full name; create the principal if it does not exist.

        It gets a password, which kinit() knows.

        Args:
            name: Such as ``alice`` or ``HTTP/localhost``, with or without this realm's
                name after it.

        Raises:
            ValueError: Not a name, or one of another realm.
            StartError: kadmin.local has failed.

        Blocks for some milliseconds, the first time.

        """
        if not re.fullmatch(r"(?!-)[^@\s\0\\]+(@[^@\s\0\\]+)?", name):
            raise ValueError(f"not the name of a principal: {name!r}")
        full = name if "@" in name else f"{name}@{self.name}"
        if not full.endswith(f"@{self.name}"):
            raise ValueError(f"{name} is not of the realm {self.name}")
        k5 = self._running()
        if full not in self._principals:
            k5.addprinc(full, k5.password(full))
            self._principals.add(full)
        return full

    def extract_keytab(self, principal: str, keytab: str | os.PathLike[str]) -> Path:
        """Add a principal's keys to a keytab, and return the keytab's path.

        Args:
            principal: As for principal(), which creates it if it does not exist.  Its
                password is not changed.
            keytab: The file, which is created if it does not exist.

        Raises:
            ValueError: As principal().
            StartError: kadmin.local has failed.

        Blocks for some milliseconds.

        """
        path = Path(keytab).absolute()
        self._running().extract_keytab(self.principal(principal), str(path))
        return path

    def kinit(
        self,
        principal: str,
        ccache: str | os.PathLike[str] | None = None,
        *options: str,
    ) -> str:
        """Obtain tickets for a principal, and return the credential cache's name.

        Args:
            principal: As for principal(), which creates it if it does not exist.
            ccache: The cache to put them in, replacing its content.  None: the default
                one of `env`.
            options: Options of kinit(1), such as ``"-l", "5s"``.

        Raises:
            ValueError: As principal().
            StartError: kinit has failed.

        Blocks for some milliseconds.

        """
        k5 = self._running()
        cache = k5.env["KRB5CCNAME"] if ccache is None else os.fspath(ccache)
        full = self.principal(principal)
        k5.kinit(full, k5.password(full), flags=["-c", cache, *options])
        return cache

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Set the variables of `env` in os.environ, and restore them at the end.

        Must not be used while other threads use Kerberos, as the C library's setenv()
        is not thread safe.  Does not block.
        """
        env = self.env
        saved = {name: os.environ.get(name) for name in env}
        try:
            os.environ.update(env)
            yield
        finally:
            for name, value in saved.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value

    def server(self, commands: Commands, *, address: str = "127.0.0.1") -> Server:
        """Return a remctld of this realm, which a ``with`` block starts and ends.

        Args:
            commands: The commands that it runs, in the order in which remctld looks
                them up.  A key is a command and a subcommand, such as ``"test
                hello"``; as in remctl.conf, ALL stands for any of either, and EMPTY
                for no subcommand.  A value is a shell snippet, the path of a program,
                or a Command, which has the other settings of remctl.conf.
            address: The loopback address that it listens on, ``"::1"`` for IPv6.

        Raises:
            TypeError, ValueError: remctl.conf cannot express a command, or the
                address is not a loopback address.

        Does not block; entering the server does.

        """
        return Server(self, commands, address=address)

    def __enter__(self) -> Realm:
        """Start the realm, and return it."""
        if self._directory is not None:
            raise RuntimeError("the realm is running")
        owner = os.getpid()
        # The name is unique, and known before the directory is made, so that a guard
        # that removes the directory exists first, whatever interrupts this.
        directory = Path(tempfile.gettempdir(), f"remctl-realm-{secrets.token_hex(12)}")

        def remove() -> None:
            if os.getpid() == owner:
                shutil.rmtree(directory, ignore_errors=True)

        with contextlib.ExitStack() as stack:
            stack.callback(self._forget)
            guard = Daemon(
                ["true"],
                env=os.environ,
                output=Path(os.devnull),
                ready=lambda: True,
                remove=directory,
            )
            stack.callback(guard.kill)
            stack.callback(remove)
            # Commands may run as other users: they can enter it, but not list it.
            directory.mkdir(0o700)
            directory.chmod(0o711)
            self._directory = directory
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the KDC and remove the directory."""
        self._stack.close()

    def _running(self) -> K5Realm:
        if self._k5 is None:
            raise RuntimeError("the realm is not running")
        return self._k5

    def _forget(self) -> None:
        self._directory = self._k5 = self._kdc = None
        self._principals.clear()

    def _start(self, stack: contextlib.ExitStack) -> None:
        try:
            # Imported here, as the rest of the package does not need k5test.
            from remctl.testing._k5 import ADDRESS, K5Realm  # noqa: PLC0415
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "k5test":
                raise
            raise MissingError(
                "not found: the Python package k5test; pip install "
                "'remctl-cffi[testing]'"
            ) from None
        self._k5 = K5Realm(self.directory, self.name)
        self._k5.configure(0)
        self._k5.create_kdb()
        self.principal(self.user)
        self.extract_keytab(self.service, self.keytab)
        port, self._kdc = start_on_free_port(ADDRESS, self._start_kdc)
        stack.callback(port.release)
        stack.callback(self._kdc.stop)
        self.kinit(self.user)

    def _start_kdc(self, port: int) -> Daemon:
        k5 = self._running()
        k5.configure(port)
        output = self.directory / f"krb5kdc-{port}.out"
        return Daemon(
            [k5.krb5kdc, "-n"],
            env={**os.environ, **k5.env},
            output=output,
            ready=lambda: b"starting..." in output.read_bytes(),
        )
