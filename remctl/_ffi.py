# SPDX-License-Identifier: MIT
"""The only import of the compiled module, and strings on their way to and from C."""

from __future__ import annotations

import os
from errno import ENOMEM
from typing import TYPE_CHECKING

import _cffi_backend  # noqa: F401 (so that PyInstaller sees what the extension needs)

from remctl._remctl_cffi import ffi, lib

if TYPE_CHECKING:
    from remctl._remctl_cffi import CData, ShimHandle

__all__ = [
    "ffi",
    "lib",
    "new_connection",
    "new_handle",
    "to_c",
    "to_text",
    "unsupported_ccache",
]

# What a connection weighs for PyPy's garbage collector: mostly GSS-API context.
CONNECTION_SIZE = 64 * 1024


def to_c(value: str | None) -> bytes | CData:
    """Return VALUE as a C string, None as NULL."""
    return ffi.NULL if value is None else value.encode("utf-8", "surrogateescape")


def to_text(pointer: CData) -> str:
    """Return C's text; no server can make it undecodable."""
    if pointer == ffi.NULL:
        return ""
    return ffi.string(pointer).decode("utf-8", "backslashreplace")  # guard 52


def new_handle() -> tuple[ShimHandle, CData]:
    """Return a handle, and what frees what it has when it is dropped.

    They are two objects, as a collection frees what a handle in a cycle has before
    the finalizers of other objects there have run, and these may still use it: the
    first is the memory, which stays as long as anybody has it.
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
    """Return a handle of a connection over FD, and what ends it when it is dropped.

    Raises MemoryError, or OSError when there is no descriptor to be had.
    """
    handle, owner = new_handle()
    if not lib.shim_init(
        handle, fd, to_c(host), to_c(principal), to_c(ccache), to_c(source_ip)
    ):
        number = ffi.errno
        lib.shim_close(handle)  # PyPy would take its time
        if number == ENOMEM:
            raise MemoryError
        raise OSError(number, os.strerror(number))
    return handle, owner


def unsupported_ccache(ccache: str) -> str | None:
    """Return why the GSS-API library cannot use CCACHE, or None if it can."""
    handle, _owner = new_handle()
    if lib.shim_init(handle, -1, ffi.NULL, ffi.NULL, to_c(ccache), ffi.NULL):
        return None
    if handle.error == ffi.NULL:
        raise MemoryError
    return to_text(handle.error)
