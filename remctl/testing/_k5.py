# SPDX-License-Identifier: MIT
"""k5test's realm with some changes; the only import of k5test."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Any

from k5test.realm import MITRealm  # type: ignore[import-untyped]

from remctl.testing._daemon import StartError, programs

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ADDRESS = "127.0.0.1"

_PACKAGES = {
    "krb5kdc": "krb5-kdc",
    "kdb5_util": "krb5-kdc",
    "kadmin.local": "krb5-admin-server",
    "kinit": "krb5-user",
}
_PROGRAM_TIMEOUT = 60.0


class K5Realm(MITRealm):  # type: ignore[misc]  # k5test has no annotations
    """k5test's realm in a directory of ours, on loopback, named localhost.

    k5test makes its own directory, which a failure in its constructor would leave
    behind, and looks the machine's name up, which may take a long time.
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
                # So that localhost means this machine, whatever DNS says.
                "dns_canonicalize_hostname": "false",
                "dns_lookup_kdc": "false",
                "dns_lookup_realm": "false",
                "qualify_shortname": '""',
                "rdns": "false",
                # TCP always: by MIT's library, and by Heimdal's.
                "udp_preference_limit": "1",
                "large_message_size": "0",
            },
            "realms": {self.realm: {"kdc": f"{ADDRESS}:{port}"}},
            "domain_realm": {"localhost": self.realm},
        }
        # k5test's own kdc.conf needs krb5-config, which may not be installed.  TCP
        # only, which needs one port, and shows at once that a KDC is gone.
        database = f"{self.tmpdir}/db"
        kdc_conf: dict[str, dict[str, Any]] = {
            "kdcdefaults": {"kdc_tcp_listen_backlog": "128"},
            "realms": {
                self.realm: {
                    "database_module": "db",
                    "database_name": database,
                    "kdc_listen": '""',
                    "kdc_tcp_listen": f"{ADDRESS}:{port}",
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

    def _make_env(self, *paths: str) -> dict[str, str]:
        # Without the variables for replication, which this KDC does not do.
        env = super()._make_env(*paths)
        return {name: value for name, value in env.items() if name.startswith("KRB5")}

    @property
    def hostname(self) -> str:
        return "localhost"

    def run_kadminl(self, query: list[str], **options: Any) -> bytes:
        """Run kadmin.local, whose -q option would hide its exit status."""
        return self.run([self.kadmin_local, *query], **options)

    def extract_keytab(self, princname: str, keytab: str) -> None:
        """Add keys to a keytab, whose name may have spaces in it."""
        self.run_kadminl(["ktadd", "-k", keytab, "-norandkey", princname])

    def run(
        self,
        args: list[str],
        env: Mapping[str, str] | None = None,
        input: str | None = None,  # noqa: A002  # k5test's name
        expected_code: int = 0,
    ) -> bytes:
        """Run a program as k5test does, but with a time-out, and show its output."""
        try:
            result = subprocess.run(
                args,
                env={**os.environ, **(self.env if env is None else env)},
                input=(input or "").encode(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=_PROGRAM_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise StartError(str(error)) from None
        if result.returncode != expected_code:
            raise StartError(
                f"{' '.join(args)} ended with status {result.returncode}:\n"
                f"{result.stdout.decode(errors='replace').strip()}"
            )
        return result.stdout
