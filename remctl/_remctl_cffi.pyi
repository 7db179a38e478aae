# SPDX-License-Identifier: MIT
from collections.abc import Callable
from typing import Literal, TypeVar, overload

class CData: ...

class ShimConnection(CData):
    type: int
    stream: int
    status: int
    code: int
    data: CData
    length: int
    error: CData
    many_tokens: int

_T = TypeVar("_T", bound=CData)

class _FFI:
    NULL: CData
    errno: int
    def gc(
        self, cdata: _T, destructor: Callable[[_T], None], size: int = ...
    ) -> _T: ...
    @overload
    def new(self, cdecl: Literal["shim_connection *"]) -> ShimConnection: ...
    @overload
    def new(self, cdecl: Literal["size_t[]"], init: list[int]) -> CData: ...
    @overload
    def new(self, cdecl: Literal["char *[]"], init: list[CData]) -> CData: ...
    def from_buffer(self, python_buffer: bytes) -> CData: ...
    def string(self, cdata: CData) -> bytes: ...
    def unpack(self, cdata: CData, length: int) -> bytes: ...

class _Lib:
    REMCTL_PORT: int
    REMCTL_PORT_OLD: int
    REMCTL_SERVICE: CData
    REMCTL_OUT_OUTPUT: int
    REMCTL_OUT_STATUS: int
    REMCTL_OUT_ERROR: int
    REMCTL_OUT_DONE: int
    SHIM_FAILED: int
    SHIM_OK: int
    SHIM_WAIT: int
    SHIM_BLOCKS: int
    SHIM_CLOSED: int
    SHIM_UNSUPPORTED: int
    SHIM_NO_MEMORY: int

    def shim_init(
        self,
        connection: ShimConnection,
        socket: int,
        host: bytes | CData,
        principal: bytes | CData,
        ccache: bytes | CData,
        source: bytes | CData,
    ) -> int: ...
    def shim_free(self, connection: ShimConnection) -> None: ...
    def shim_open(self, connection: ShimConnection) -> int: ...
    def shim_was_reset(self, connection: ShimConnection) -> int: ...
    def shim_open_protocol1(
        self, connection: ShimConnection, port: int, timeout: int
    ) -> int: ...
    def shim_command(
        self,
        connection: ShimConnection,
        data: CData,
        lengths: CData,
        count: int,
        may_block: int,
    ) -> int: ...
    def shim_output(self, connection: ShimConnection, may_block: int) -> int: ...
    def shim_noop(self, connection: ShimConnection) -> int: ...
    def shim_close(self, connection: ShimConnection) -> None: ...
    def shim_fileno(self, connection: ShimConnection) -> int: ...
    def shim_hold(self, connection: ShimConnection) -> int: ...
    def shim_release(self, connection: ShimConnection) -> None: ...
    def shim_silence(self, connection: ShimConnection) -> float: ...
    def shim_progress(self, connection: ShimConnection) -> int: ...
    def shim_process(self) -> int: ...

ffi: _FFI
lib: _Lib
