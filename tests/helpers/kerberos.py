# SPDX-License-Identifier: MIT
"""Which Kerberos library libremctl uses, for the tests that have to know it."""

from __future__ import annotations

import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import remctl._ffi  # noqa: F401 (it loads libremctl)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from remctl.testing import Realm

# MIT's is libgssapi_krb5.so.2.
HEIMDAL = "/libgssapi.so.3" in Path("/proc/self/maps").read_text(encoding="utf-8")


def forget_configuration() -> None:
    """Have the calls that follow read krb5.conf again.

    MIT's library does so by itself.  Heimdal's reads it once in each thread: those of
    the package have to end, which they do after five seconds without work.
    """
    if HEIMDAL:
        time.sleep(8)


@contextmanager
def applied(realm: Realm) -> Iterator[None]:
    """Have the calls in the block use this realm, and those after it the former one."""
    with realm.applied():
        forget_configuration()
        yield
        forget_configuration()
