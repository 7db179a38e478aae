# SPDX-License-Identifier: MIT
"""A tunnel between two sockets, such as a caller gives to open(sock=...)."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Callable

if TYPE_CHECKING:
    from collections.abc import Iterator

    Send = Callable[[socket.socket, bytes], object]


def pump(source: socket.socket, target: socket.socket, send: Send) -> None:
    """Pass on what comes from ``source``, its end too."""
    with suppress(OSError):
        while octets := source.recv(65536):
            send(target, octets)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@contextmanager
def tunnel(
    one: socket.socket, other: socket.socket, send: Send = socket.socket.sendall
) -> Iterator[None]:
    """Pass on what comes from either side to the other, and to ``one`` by ``send``."""
    pairs = [(one, other, socket.socket.sendall), (other, one, send)]
    threads = [threading.Thread(target=pump, args=pair, daemon=True) for pair in pairs]
    with one, other:
        for thread in threads:
            thread.start()
        yield
        for sock in (one, other):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
