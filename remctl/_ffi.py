# SPDX-License-Identifier: MIT
"""The only import of the compiled module, and conversions to and from C."""

from __future__ import annotations

import os
from errno import ENOMEM

import _cffi_backend  # noqa: F401 (so that PyInstaller sees what the extension needs)

from remctl._remctl_cffi import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from remctl._remctl_cffi import CData, ShimHandle

__all__ = [
    "ffi",
    "generation",
    "lib",
    "new_connection",
    "new_handle",
    "to_c",
    "to_text",
    "unsupported_ccache",
]

# How many forks there were between the process that loaded this and the present one,
# as the item 0.  A child that was made without fork handlers has its parent's number:
# there the shim, which looks at the process id, too, refuses each call.
generation = ffi.addressof(lib, "shim_generation")

# The C memory of a connection, mostly the GSS-API context: PyPy's garbage collector
# counts it when it decides whether to collect.
CONNECTION_SIZE = 64 * 1024


def to_c(value: str | None) -> bytes | CData:
    """Return the string for a C argument, and NULL for None."""
    return ffi.NULL if value is None else value.encode("utf-8", "surrogateescape")


def to_text(pointer: CData) -> str:
    """Return the text of a C string; octets that are not UTF-8 become escapes."""
    if pointer == ffi.NULL:
        return ""
    return ffi.string(pointer).decode("utf-8", "backslashreplace")  # guard 52


def new_handle() -> tuple[ShimHandle, CData]:
    """Return a handle, and its owner, which frees the handle's contents when dropped.

    They are two objects because of cycles: the garbage collector may drop the owner
    before it runs the finalizers of other objects in the cycle, and these may still use
    the handle.  The handle's own memory lives as long as there is a reference to it.
    """
    handle = ffi.new("shim_handle *")  # guard 65a
    return handle, ffi.gc(handle, lib.shim_free, CONNECTION_SIZE)  # guard 65b


def new_connection(
    fd: int,
    host: str,
    principal: str | None,
    ccache: str | None,
    source_ip: str | None,
) -> tuple[ShimHandle, CData]:
    """Return a handle of a connection over ``fd``, and its owner, as new_handle() does.

    With -1 for ``fd``, the shim makes the socket later, or libremctl does (protocol 1).
    Raises MemoryError, or OSError if no descriptor can be had.
    """
    handle, owner = new_handle()
    if not lib.shim_init(
        handle, fd, to_c(host), to_c(principal), to_c(ccache), to_c(source_ip)
    ):
        number = ffi.errno
        lib.shim_close(handle)  # at once: PyPy may free the owner much later
        if number == ENOMEM:
            raise MemoryError
        raise OSError(number, os.strerror(number))
    return handle, owner


def unsupported_ccache(ccache: str) -> str | None:
    """Return why the GSS-API library cannot use the cache, or None if it can."""
    handle, _owner = new_handle()
    if lib.shim_init(handle, -1, ffi.NULL, ffi.NULL, to_c(ccache), ffi.NULL):
        return None
    if handle.error == ffi.NULL:
        raise MemoryError
    return to_text(handle.error)
