# SPDX-License-Identifier: MIT
"""A remctl server whose output tokens are small, and all there: remctld merges them.

Run it with Debian's Python, which has the GSS-API module (package python3-gssapi).  It
serves one connection after another with the key that KRB5_KTNAME names, on a port of
127.0.0.1 that it prints.  Whatever the command is, its last argument says with how
many tokens of 8 octets it is to be answered; all are encrypted before the first one is
sent.  It ends when its standard input does, so it cannot outlive its parent.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
import threading
from typing import Any

import gssapi  # type: ignore[import-not-found,unused-ignore]

TOKEN_CONTEXT = 0x02
TOKEN_DATA = 0x04
TOKEN_PROTOCOL = 0x40
HEADER = struct.Struct("!BL")

COMMAND = 1
OUTPUT = b"\2\3\1" + struct.pack("!L", 8) + b"1234567\n"
STATUS = b"\2\4\0"


class Client:
    """One connection."""

    def __init__(self, sock: socket.socket) -> None:
        """Serve ``sock``."""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self._file = sock.makefile("rb")
        self._context = gssapi.SecurityContext(usage="accept")

    def serve(self) -> None:
        """Answer commands until the client leaves."""
        self._read()
        while not self._context.complete:
            reply = self._context.step(self._read())
            if reply:
                self._sock.sendall(token(TOKEN_CONTEXT, reply))
        while True:
            message = self._context.unwrap(self._read()).message
            if message[1] != COMMAND:
                return
            # A version, a type, keep-alive, continue; a count, and counted arguments.
            count = int(message.rpartition(b"\0")[2][1:])
            self._sock.sendall(b"".join([self._wrap(OUTPUT) for _ in range(count)]))
            self._sock.sendall(self._wrap(STATUS))

    def _read(self) -> bytes:
        """Return the payload of the next token; EOFError when there is none."""
        header = self._file.read(HEADER.size)
        if len(header) < HEADER.size:
            raise EOFError
        return self._file.read(HEADER.unpack(header)[1])

    def _wrap(self, message: bytes) -> bytes:
        return token(TOKEN_DATA, self._context.wrap(message, encrypt=True).message)


def token(flags: int, payload: Any) -> bytes:
    """Return a token as it goes on the wire."""
    return HEADER.pack(flags | TOKEN_PROTOCOL, len(payload)) + bytes(payload)


def accept_all(listener: socket.socket) -> None:
    """Serve one connection after another."""
    while True:
        sock, _ = listener.accept()
        # These errors say that the client has left.
        with sock, contextlib.suppress(EOFError, ConnectionError):
            Client(sock).serve()


def main() -> None:
    """Serve until standard input ends."""
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    threading.Thread(target=accept_all, args=[listener], daemon=True).start()
    sys.stdin.read()
    os._exit(0)  # the thread may be anywhere


if __name__ == "__main__":
    main()
