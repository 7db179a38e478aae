# SPDX-License-Identifier: MIT
"""A name service that does as a test says, in this process.

The machine's own cannot be changed.  glibc's name service switch takes a module of ours
(nss_scripted.c) before the others.
"""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(__file__).with_name("nss_scripted.c")


class Names:
    """The name service, which knows one name."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library  # PyPy unloads one that nobody refers to
        self._name = (ctypes.c_char * 256).in_dll(library, "scripted_name")
        self._addresses = (ctypes.c_char * 1024).in_dll(library, "scripted_addresses")
        self._mute = ctypes.c_int.in_dll(library, "scripted_mute")
        self._asked = ctypes.c_int.in_dll(library, "scripted_asked")
        self._locks = ctypes.c_int.in_dll(library, "scripted_locks")

    @property
    def asked(self) -> int:
        """How often it has been asked for the name."""
        return self._asked.value

    def wait_until_asked(self) -> None:
        """Wait until it has been."""
        wait_until(lambda: self.asked > 0)

    def answer(self) -> None:
        """Be mute no more."""
        self._mute.value = 0

    @contextmanager
    def know(
        self, name: str, *addresses: str, mute: bool = False, locks: bool = False
    ) -> Iterator[Names]:
        """Have these addresses for ``name``, and answer at once or later.

        With ``locks`` it answers one thread at a time.
        """
        self._name.value = name.encode()
        self._addresses.value = "".join(f"{each} " for each in addresses).encode()
        self._asked.value = 0
        self._mute.value = int(mute)
        self._locks.value = int(locks)
        try:
            yield self
        finally:
            self._mute.value = 0
            self._name.value = b""


@cache
def names() -> Names:
    """Put the name service in front of this process's own."""
    with tempfile.TemporaryDirectory() as directory:
        # By this name glibc finds the library that is loaded already.
        path = Path(directory, "libnss_scripted.so.2")
        options = ["-shared", "-fPIC", f"-Wl,-soname,{path.name}", "-D_GNU_SOURCE"]
        subprocess.run(["gcc", *options, SOURCE, "-o", path], check=True)
        library = ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
    libc = ctypes.CDLL(None)
    assert libc.__nss_configure_lookup(b"hosts", b"scripted files dns") == 0
    return Names(library)
