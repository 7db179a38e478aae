# SPDX-License-Identifier: MIT
"""A relay that lets time pass before each token of the server."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Callable

if TYPE_CHECKING:
    from typing_extensions import Self

HEADER = struct.Struct("!BL")


class Relay:
    """Connects each of its clients to a server of this host.

    Before it passes on one of the server's tokens, it waits for as many seconds as
    ``delay`` returns.  What the client sends, it passes on at once.
    """

    def __init__(self, port: int, delay: Callable[[], float]) -> None:
        """Relay to ``port``."""
        self._port = port
        self._delay = delay
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        """Return the object itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Take no more clients."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the end of it
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,)).start()

    def _serve(self, client: socket.socket) -> None:
        """Pass on tokens until the server ends, or the client."""
        with client, socket.create_connection(("127.0.0.1", self._port)) as server:
            for sock in (client, server):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            thread = threading.Thread(target=pass_on, args=(client, server))
            thread.start()
            with contextlib.suppress(OSError), server.makefile("rb") as stream:
                while header := stream.read(HEADER.size):
                    token = header + stream.read(HEADER.unpack(header)[1])
                    time.sleep(self._delay())
                    client.sendall(token)
            end(client)
            thread.join()


def pass_on(client: socket.socket, server: socket.socket) -> None:
    """Pass on what the client sends, until it ends."""
    with contextlib.suppress(OSError):
        while octets := client.recv(65536):
            server.sendall(octets)
    end(server)


def end(sock: socket.socket) -> None:
    """Wake up who waits for ``sock``, on either side."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
