# SPDX-License-Identifier: MIT
"""A Kerberos realm with a KDC of its own, made by k5test in one directory."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from k5test.realm import MITRealm

from remctl.testing._daemon import Daemon, StartError, programs, start_on_free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

_PACKAGES = {
    "krb5kdc": "krb5-kdc",
    "kdb5_util": "krb5-kdc",
    "kadmin.local": "krb5-admin-server",
    "kinit": "krb5-user",
}
_ADDRESS = "127.0.0.1"
_PROGRAM_TIMEOUT = 60.0


class _K5Realm(MITRealm):  # type: ignore[misc]  # k5test has no annotations
    """k5test's realm in a directory of ours, on loopback, named localhost.

    k5test takes its own directory, which a failure in its constructor would leave
    behind, and asks the resolver for the machine's name, which may take its time.
    """

    def __init__(self, directory: Path, name: str) -> None:
        found = programs(_PACKAGES)
        super().__init__(realm=name, existing=str(directory), get_creds=False)
        self.krb5kdc = found["krb5kdc"]
        self.kdb5_util = found["kdb5_util"]
        self.kadmin_local = found["kadmin.local"]
        self._kinit = found["kinit"]

    def configure(self, port: int) -> None:
        """Write krb5.conf and kdc.conf for a KDC on this port."""
        krb5_conf: dict[str, dict[str, Any]] = {
            "libdefaults": {
                "default_realm": self.realm,
                # localhost is localhost, whatever DNS and its search list say.
                "dns_canonicalize_hostname": "false",
                "dns_lookup_kdc": "false",
                "dns_lookup_realm": "false",
                "qualify_shortname": '""',
                "rdns": "false",
                "udp_preference_limit": "1",
            },
            "realms": {self.realm: {"kdc": f"{_ADDRESS}:{port}"}},
            "domain_realm": {"localhost": self.realm},
        }
        # k5test's own kdc.conf asks krb5-config, which users of Kerberos need not have.
        # Only TCP: one port to find, and a KDC that is gone is noticed at once.
        database = f"{self.tmpdir}/db"
        kdc_conf: dict[str, dict[str, Any]] = {
            "kdcdefaults": {"kdc_tcp_listen_backlog": "128"},
            "realms": {
                self.realm: {
                    "database_module": "db",
                    "database_name": database,
                    "kdc_listen": '""',
                    "kdc_tcp_listen": f"{_ADDRESS}:{port}",
                    "key_stash_file": f"{self.tmpdir}/stash",
                }
            },
            "dbmodules": {"db": {"db_library": "db2", "database_name": database}},
            "logging": {
                "default": f"FILE:{self.tmpdir}/others.log",
                "kdc": f"FILE:{self.tmpdir}/kdc.log",
            },
        }
        self._create_conf(krb5_conf, self.env["KRB5_CONFIG"])
        self._create_conf(kdc_conf, self.env["KRB5_KDC_PROFILE"])

    @property
    def hostname(self) -> str:
        return "localhost"

    def run(
        self,
        args: list[str],
        env: Mapping[str, str] | None = None,
        input: str | None = None,  # noqa: A002  # k5test's name
        expected_code: int = 0,
    ) -> bytes:
        """Run a program as k5test does, but bounded and with its output shown."""
        result = subprocess.run(
            args,
            env=dict(self.env if env is None else env),
            input=(input or "").encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_PROGRAM_TIMEOUT,
            check=False,
        )
        if result.returncode != expected_code:
            raise StartError(
                f"{' '.join(args)} ended with status {result.returncode}:\n"
                f"{result.stdout.decode(errors='replace').strip()}"
            )
        return result.stdout


class Realm:
    """A realm on loopback, which lasts as long as the ``with`` block.

    It has two users, ``user`` (whose tickets are in the default cache of `env`) and
    ``bob``, and the service ``host/localhost``, whose key is in `keytab`.  Nothing
    is changed outside of its directory: give programs `env`, or use `applied`.

    Raises StartError when a program is missing or fails.
    """

    def __init__(self, name: str = "KRBTEST.COM") -> None:
        self.name = name
        self.user = f"user@{name}"
        self.bob = f"bob@{name}"
        self.service = f"host/localhost@{name}"

    @property
    def env(self) -> dict[str, str]:
        """The environment variables that make Kerberos use this realm; a copy."""
        return dict(self._k5.env)

    @property
    def keytab(self) -> Path:
        """The file with the key of `service`."""
        return Path(self._k5.keytab)

    @property
    def kdc_pid(self) -> int:
        """The process id of the KDC."""
        return self._kdc.pid

    def kinit(
        self, principal: str, ccache: str | os.PathLike[str], *options: str
    ) -> str:
        """Obtain tickets for a principal of this realm; return the cache's name.

        The options are those of kinit(1), such as ``-l 5s``.
        """
        cache = os.fspath(ccache)
        if principal == self.service:
            flags = ["-k", "-t", self._k5.keytab]
            password = None
        else:
            flags = []
            password = self._k5.password(principal)
        self._k5.kinit(principal, password, flags=["-c", cache, *flags, *options])
        return cache

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Set the variables of `env` in os.environ, and restore it in the end.

        Not while other threads use Kerberos: the C library's setenv() is not safe.
        """
        saved = {key: os.environ.get(key) for key in self._k5.env}
        try:
            os.environ.update(self._k5.env)
            yield
        finally:
            for key, value in saved.items():
                if value is None:
                    os.environ.pop(key, None)
                else:
                    os.environ[key] = value

    def __enter__(self) -> Realm:
        owner = os.getpid()
        with contextlib.ExitStack() as stack:
            self.directory = Path(tempfile.mkdtemp(prefix="remctl-realm-"))

            def remove() -> None:
                if os.getpid() == owner:
                    shutil.rmtree(self.directory, ignore_errors=True)

            stack.callback(remove)
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _start(self, stack: contextlib.ExitStack) -> None:
        self._k5 = _K5Realm(self.directory, self.name)
        self._k5.configure(0)
        self._k5.create_kdb()
        for principal in (self.user, self.bob):
            self._k5.addprinc(principal, self._k5.password(principal))
        self._k5.addprinc(self.service)
        self._k5.extract_keytab(self.service, self._k5.keytab)
        port, self._kdc = start_on_free_port(_ADDRESS, self._start_kdc)
        stack.callback(port.release)
        stack.callback(self._kdc.stop)
        self.kinit(self.user, self._k5.ccache)

    def _start_kdc(self, port: int) -> Daemon:
        self._k5.configure(port)
        output = self.directory / f"krb5kdc-{port}.out"
        return Daemon(
            [self._k5.krb5kdc, "-n"],
            env=self._k5.env,
            output=output,
            ready=lambda: b"starting..." in output.read_bytes(),
            remove=self.directory,
        )
