# SPDX-License-Identifier: MIT
"""What can be wrong with a call: each row of the table in docs/howto/failures.md.

The names are the first column there.  ``OPENINGS`` return the arguments of a call that
cannot open a connection; ``CALLS`` raise by themselves.
"""

from __future__ import annotations

import math
import os
import re
import resource
import socket
import ssl
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

from kerberos import forget_configuration
from names import names
from preload import library
from silent import full
from support import wait_until

import remctl
from remctl._arguments import MAX_COMMAND
from remctl.testing import Realm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scripted import ScriptedServer

    from remctl.testing import Server

TIMEOUT = 0.3  # seconds, of calls that wait for a server that is silent
COMMAND = ["test", "hello"]
LARGE = ["test", "stdin", b"x" * 16_000_000]
OLD = ["handshake", {"protocol": 1}]
ERROR = ["error", {"code": 1, "text": "Internal failure"}]


class Kit(NamedTuple):
    """What a mistake needs to be made."""

    realm: Realm
    server: Server
    scripted: Callable[..., ScriptedServer]
    directory: Path
    stack: ExitStack

    def arguments(self, **options: Any) -> dict[str, Any]:
        """Return the arguments that open a connection, with ``options`` over them."""
        return {"host": "localhost", "port": self.server.port, **options}

    def open(self, script: list[Any] | None = None, **options: Any) -> remctl.Remctl:
        """Return an open connection, to a scripted server if there is a script."""
        if script is not None:
            options["port"] = self.scripted(script).port
        try:
            return remctl.Remctl(**self.arguments(**options))
        except remctl.RemctlError as error:  # which may look like the mistake's
            raise AssertionError(f"there is no connection: {error}") from error

    def cache(self, name: str, *options: str) -> str:
        """Return a credential cache with new tickets for the user."""
        path = self.directory / name
        return self.realm.kinit(self.realm.user, path, *options)

    def expired(self) -> str:
        """Return a credential cache whose ticket has expired."""
        cache = self.cache("expired", "-l", "1s")
        time.sleep(2.5)
        return cache

    def configure(self, pattern: str, replacement: str) -> None:
        """Change the client's krb5.conf."""
        conf = Path(os.environ["KRB5_CONFIG"]).read_text(encoding="utf-8")
        text, count = re.subn(pattern, replacement, conf)
        assert count
        path = self.directory / "krb5.conf"
        path.write_text(text, encoding="utf-8")
        os.environ["KRB5_CONFIG"] = str(path)
        forget_configuration()

    def kdc(self, port: int) -> None:
        """Have the client ask a KDC on this port."""
        self.configure(r"(kdc = 127.0.0.1):\d+", rf"\1:{port}")

    def default_cache(self, name: str) -> None:
        """Have the client use this cache where ``KRB5CCNAME`` is not set."""
        # MIT's name, and Heimdal's.
        lines = f"default_ccache_name = {name}\ndefault_cc_name = {name}\n"
        self.configure(r"\[libdefaults\]\n", rf"\g<0>{lines}")

    def silent(self) -> int:
        """Return the port of a server that says nothing."""
        listener = self.stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        return int(listener.getsockname()[1])


def fail(client: remctl.Remctl) -> None:
    """Run a command, which fails."""
    try:
        client.run(COMMAND)
    except remctl.RemctlError:
        return
    raise AssertionError("the command has not failed")


OPENINGS: dict[str, Callable[[Kit], dict[str, Any]]] = {}
CALLS: dict[str, Callable[[Kit], object]] = {}


def opening(name: str) -> Callable[[Callable[[Kit], Any]], Callable[[Kit], Any]]:
    """Register what returns the arguments of a call that cannot open a connection."""

    def register(function: Callable[[Kit], Any]) -> Callable[[Kit], Any]:
        OPENINGS[name] = function
        return function

    return register


def call(name: str) -> Callable[[Callable[[Kit], Any]], Callable[[Kit], Any]]:
    """Register what raises."""

    def register(function: Callable[[Kit], Any]) -> Callable[[Kit], Any]:
        CALLS[name] = function
        return function

    return register


# Wrong arguments: those of remctl.remctl().
ARGUMENTS: dict[str, dict[str, Any]] = {
    "no host": {"host": None},
    "an empty host": {"host": ""},
    "a host in bytes": {"host": b"foo.example.com"},
    "a host with NUL": {"host": "foo\0"},
    "a port that is no number": {"port": "remctl"},
    "a port with a fraction": {"port": 4373.5},
    "a port out of range": {"port": 70000},
    "a principal in bytes": {"principal": b"host/foo"},
    "a command in one string": {"command": "ls -l '/my files'"},
    "a command in one bytes": {"command": b"ls -l"},
    "no command": {"command": []},
    "None in a command": {"command": ["ls", None]},
    "a list in a command": {"command": ["ls", ["-l"]]},
    "a command that is too large": {"command": ["x", bytes(MAX_COMMAND)]},
    "a time-out in a string": {"timeout": "30"},
    "a negative time-out": {"timeout": -1},
    "a time-out that is not finite": {"timeout": math.nan},
    "a cache that is no name": {"ccache": 5},
    "a source address that is a name": {"source_ip": "eth0"},
}
for _name, _wrong in ARGUMENTS.items():

    @call(_name)
    def _(kit: Kit, wrong: dict[str, Any] = _wrong) -> object:
        return remctl.remctl(**{**kit.arguments(command=COMMAND), **wrong})


@call("a socket that is closed")
def _(kit: Kit) -> None:
    with socket.socket() as sock:
        pass
    remctl.Remctl().open("localhost", sock=sock)


@call("a socket that is not connected")
def _(kit: Kit) -> None:
    with socket.socket() as sock:
        remctl.Remctl().open("localhost", sock=sock)


@call("a TLS socket")
def _(kit: Kit) -> None:
    context = ssl.create_default_context()
    with socket.socket() as sock, context.wrap_socket(sock, server_hostname="x") as tls:
        remctl.Remctl().open("localhost", sock=tls)


@call("`open()` without a host, the first time")
def _(kit: Kit) -> None:
    remctl.Remctl().open()


@call("a pool without a size")
def _(kit: Kit) -> None:
    remctl.Pool(**kit.arguments(size=0))


@call("`set_timeout(-1)`")
def _(kit: Kit) -> None:
    remctl.Remctl().set_timeout(-1)


# None of the stages


@call("`open()` was not called")
def _(kit: Kit) -> None:
    remctl.Remctl().run(COMMAND)


@call("a call after the one that lost the connection")
def _(kit: Kit) -> None:
    client = kit.open(["handshake", "read", "close"])
    fail(client)
    client.run(COMMAND)


@call("a command before the end of the last reply")
def _(kit: Kit) -> None:
    with kit.open() as client:
        client.command(COMMAND)
        client.command(COMMAND)


@call("a pool that is closed")
def _(kit: Kit) -> None:
    pool = remctl.Pool(**kit.arguments())
    pool.close()
    pool.run(COMMAND)


@call("all connections of a pool are in use")
def _(kit: Kit) -> None:
    with remctl.Pool(**kit.arguments(size=1, wait=0.1)) as pool, pool.connection():
        pool.run(COMMAND)


# resolve


@opening("the name does not exist")
def _(kit: Kit) -> dict[str, Any]:
    return kit.arguments(host="foo..example.com")


@opening("the name service is silent")
def _(kit: Kit) -> dict[str, Any]:
    service = names().know("mute.example.com", mute=True)
    kit.stack.enter_context(service)
    return kit.arguments(host="mute.example.com", timeout=TIMEOUT)


@call("no descriptors are left")
def _(kit: Kit) -> None:
    client = remctl.Remctl()
    client.set_timeout(0)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    spare = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 1, limits[1]))
    try:
        with suppress(OSError):
            while True:
                spare.append(os.dup(0))
        client.open("127.0.0.1", kit.server.port, kit.server.principal)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for fd in spare:
            os.close(fd)


# connect


@opening("nothing listens on the port")
def _(kit: Kit) -> dict[str, Any]:
    sock = kit.stack.enter_context(socket.socket())
    sock.bind(("127.0.0.1", 0))
    return kit.arguments(port=sock.getsockname()[1])


@opening("nothing listens on the default ports")
def _(kit: Kit) -> dict[str, Any]:
    return kit.arguments(host="127.99.98.97", port=None)


@opening("a firewall drops what is sent")
def _(kit: Kit) -> dict[str, Any]:
    port = kit.stack.enter_context(full())
    return kit.arguments(host="127.0.0.1", port=port, timeout=TIMEOUT)


@opening("the source address is another host's")
def _(kit: Kit) -> dict[str, Any]:
    return kit.arguments(source_ip="192.0.2.1")


@opening("the source address is of the other family")
def _(kit: Kit) -> dict[str, Any]:
    return kit.arguments(host="127.0.0.1", source_ip="::1")


@call("`set_source_ip()` with a name")
def _(kit: Kit) -> None:
    client = remctl.Remctl()
    client.set_source_ip("eth0")
    client.open("localhost", kit.server.port)


# authenticate


@opening("`ccache=` names a cache that is missing")
def _(kit: Kit) -> dict[str, Any]:
    return kit.arguments(ccache="FILE:/run/no/cache")


@opening("the default cache is missing")
def _(kit: Kit) -> dict[str, Any]:
    os.environ["KRB5CCNAME"] = "/run/no/cache"
    return kit.arguments()


@opening("the default cache is missing, and `KRB5CCNAME` is not set")
def _(kit: Kit) -> dict[str, Any]:
    del os.environ["KRB5CCNAME"]
    kit.default_cache("FILE:/run/no/default")
    return kit.arguments()


@call("a type of cache that does not exist")
def _(kit: Kit) -> None:
    remctl.remctl(**kit.arguments(ccache="CARDFILE:x", command=COMMAND))


@opening("the cache is another file")
def _(kit: Kit) -> dict[str, Any]:
    path = kit.directory / "junk"
    path.write_text("this is no cache", encoding="ascii")
    return kit.arguments(ccache=path)


@opening("the ticket in `ccache=` has expired")
def _(kit: Kit) -> dict[str, Any]:
    return kit.arguments(ccache=kit.expired())


@opening("the ticket in the default cache has expired")
def _(kit: Kit) -> dict[str, Any]:
    os.environ["KRB5CCNAME"] = kit.expired()
    return kit.arguments()


@opening("the KDC does not know the principal")
def _(kit: Kit) -> dict[str, Any]:
    return kit.arguments(principal="remctl/foo@KRBTEST.COM")


@opening("an address instead of a name")
def _(kit: Kit) -> dict[str, Any]:
    return kit.arguments(host="127.0.0.1")


@opening("a principal of a realm that is not trusted")
def _(kit: Kit) -> dict[str, Any]:
    return kit.arguments(principal="host/foo@ELSEWHERE.COM")


@opening("the server is another principal")
def _(kit: Kit) -> dict[str, Any]:
    principal = kit.realm.principal("host/other")
    return kit.arguments(principal=principal)


@opening("the server's keytab is out of date")
def _(kit: Kit) -> dict[str, Any]:
    realm = kit.stack.enter_context(Realm())
    server = kit.stack.enter_context(realm.server({"test hello": "echo hello"}))
    realm._running().run_kadminl(["cpw", "-pw", "another", realm.service])
    os.environ.update(realm.env)
    forget_configuration()
    return kit.arguments(port=server.port)


@opening("the clocks differ by an hour")
def _(kit: Kit) -> dict[str, Any]:
    os.environ["LD_PRELOAD"] = library("clock_ahead")
    try:
        ahead = kit.realm.server({"test hello": "echo hello"})
        kit.stack.enter_context(ahead)
    finally:
        del os.environ["LD_PRELOAD"]
    # Of its own, as Heimdal's library notes the server's time in it.
    return kit.arguments(port=ahead.port, ccache=kit.cache("ahead"))


@opening("no KDC is running")
def _(kit: Kit) -> dict[str, Any]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        kit.kdc(sock.getsockname()[1])
    return kit.arguments(principal="remctl/foo@KRBTEST.COM")


@opening("the KDC is silent")
def _(kit: Kit) -> dict[str, Any]:
    kit.kdc(kit.silent())
    return kit.arguments(principal="remctl/foo@KRBTEST.COM", timeout=TIMEOUT)


@opening("the Kerberos configuration is not one")
def _(kit: Kit) -> dict[str, Any]:
    kit.configure(r"(?s).+", r"[libdefaults\n")
    return kit.arguments()


@contextmanager
def greeter(greeting: bytes) -> Iterator[int]:
    """A server of another protocol, which says ``greeting``; gives its port."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

        def serve() -> None:
            with suppress(OSError):
                while True:
                    sock = listener.accept()[0]
                    stack.enter_context(sock)
                    sock.sendall(greeting)

        thread = threading.Thread(target=serve)
        thread.start()
        stack.callback(thread.join)
        stack.callback(listener.shutdown, socket.SHUT_RDWR)
        yield listener.getsockname()[1]


GREETINGS = {
    "an SSH server": b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n",
    "an SSH server of long ago": b"SSH-1.99-Cisco-1.25\n",
    "a web server": b"HTTP/1.1 400 Bad Request\r\nServer: nginx\r\n\r\n",
    "a mail server": b"220 mail.example.com ESMTP\r\n",
    "a TLS server": b"\x15\x03\x03\x00\x02\x02\x46",
    "a server that colours its greeting": b"hello \x1b[31mred\x07 server\n",
    "a database server": b"J\0\0\0\x0a5.5.5-10.11.6-MariaDB",
}
for _name, _greeting in GREETINGS.items():

    @opening(_name)
    def _(kit: Kit, greeting: bytes = _greeting) -> dict[str, Any]:
        return kit.arguments(port=kit.stack.enter_context(greeter(greeting)))


@opening("a server that hangs up in the handshake")
def _(kit: Kit) -> dict[str, Any]:
    server = kit.scripted([["handshake", {"stop": ["close", 2]}]])
    kit.stack.callback(server.wait_for, "stopped")
    return kit.arguments(port=server.port)


@opening("a server that is silent")
def _(kit: Kit) -> dict[str, Any]:
    return kit.arguments(port=kit.silent(), timeout=TIMEOUT)


@opening("a server that resets each connection")
def _(kit: Kit) -> dict[str, Any]:
    server = kit.scripted([["handshake", {"stop": ["reset", 2]}]])
    kit.stack.callback(server.wait_for, "stopped")
    return kit.arguments(port=server.port)


@call("a protocol 1 server through a socket")
def _(kit: Kit) -> None:
    port = kit.scripted([OLD, "hang"]).port
    sock = socket.create_connection(("127.0.0.1", port))
    remctl.Remctl().open("localhost", sock=sock)


@call("a server that spoke protocol 2 and now speaks 1")
def _(kit: Kit) -> None:
    port = kit.scripted(["handshake", "serve"], [OLD, "serve"]).port
    kit.open(port=port).close()
    remctl.remctl(**kit.arguments(port=port, command=COMMAND))


@call("protocol 1, and `KRB5CCNAME` was set after `open()`")
def _(kit: Kit) -> None:
    cache = os.environ.pop("KRB5CCNAME")
    kit.default_cache(kit.cache("default"))
    with kit.open([OLD, "serve"]) as client:
        os.environ["KRB5CCNAME"] = cache
        client.run(COMMAND)


@call("protocol 1, and the ticket has expired since")
def _(kit: Kit) -> None:
    with kit.open([OLD, "serve"], ccache=kit.cache("short", "-l", "3s")) as client:
        time.sleep(4.5)
        client.run(COMMAND)


@call("protocol 1, and the server has gone")
def _(kit: Kit) -> None:
    server = kit.scripted([OLD, "serve"])
    client = kit.open(port=server.port)
    server.close()
    client.run(COMMAND)


# send


@call("the server has hung up")
def _(kit: Kit) -> None:
    server = kit.scripted(["handshake", "close"])
    client = kit.open(port=server.port)
    server.wait_for("closed", 0)
    client.run(COMMAND)


@call("the server has said something unasked")
def _(kit: Kit) -> None:
    server = kit.scripted(["handshake", ["output", {"text": "late"}], "hang"])
    client = kit.open(port=server.port)
    server.wait_for("sent", 0)
    client.run(COMMAND)


@call("the server does not read a large command")
def _(kit: Kit) -> None:
    client = kit.open(["handshake", "stop_reading"])
    client.set_timeout(TIMEOUT)
    client.command(LARGE)


@call("the server resets the connection in a large command")
def _(kit: Kit) -> None:
    script = ["handshake", ["barrier", {"name": "begun"}], "reset"]
    server = kit.scripted(script)
    client = kit.open(port=server.port)

    def reset() -> None:
        wait_until(lambda: client._opened_connection().in_flight)
        server.proceed()

    thread = threading.Thread(target=reset)
    thread.start()
    try:
        client.command(LARGE)
    finally:
        thread.join()


@call("protocol 1, and a large command")
def _(kit: Kit) -> None:
    kit.open([OLD, "serve"]).command(["test", bytes(65536)])


@call("the server does not answer after an error")
def _(kit: Kit) -> None:
    script = ["handshake", "read", ERROR, "hang"]
    with kit.open(script) as client:
        fail(client)
        client.set_timeout(TIMEOUT)
        client.run(COMMAND)


@call("the server answers a command twice")
def _(kit: Kit) -> None:
    script = ["handshake", "read", ERROR, "read", "status", "hang"]
    with kit.open(script) as client:
        fail(client)
        client.run(COMMAND)


# reply


@call("a command that the server does not know")
def _(kit: Kit) -> object:
    return remctl.remctl(**kit.arguments(command=["no", "such"]))


@call("a command that this user may not run")
def _(kit: Kit) -> object:
    return remctl.remctl(**kit.arguments(command=["test", "denied"]))


@call("an argument with NUL")
def _(kit: Kit) -> object:
    return remctl.remctl(**kit.arguments(command=["test", "args", b"a\0b"]))


@call("more arguments than the server takes")
def _(kit: Kit) -> object:
    return remctl.remctl(**kit.arguments(command=["test", "args", *5000 * ["x"]]))


@call("the command is silent for too long")
def _(kit: Kit) -> None:
    client = kit.open()
    client.set_timeout(TIMEOUT)
    client.run(["test", "sleep", "60"])


@call("the server hangs up before the reply")
def _(kit: Kit) -> None:
    kit.open(["handshake", "read", "close"]).run(COMMAND)


@call("the server hangs up in the reply")
def _(kit: Kit) -> None:
    client = kit.open(["handshake", "read", "output", "close"])
    client.command(COMMAND)
    assert client.output().type == "output"
    client.output()


@call("a reply of another protocol")
def _(kit: Kit) -> None:
    script = ["handshake", "read", ["raw", {"text": "HTTP/1.1 400"}], "hang"]
    kit.open(script).run(COMMAND)


@call("a reply that is not encrypted")
def _(kit: Kit) -> None:
    signed = ["message", {"hex": "020400", "encrypt": False}]
    kit.open(["handshake", "read", signed, "hang"]).run(COMMAND)


@call("a reply that was changed on the way")
def _(kit: Kit) -> None:
    changed = ["status", {"bitflip": 40}]
    kit.open(["handshake", "read", changed, "hang"]).run(COMMAND)


@call("protocol 1, and the server hangs up before the reply")
def _(kit: Kit) -> None:
    server = kit.scripted([OLD], [OLD, "read", "close"])
    kit.stack.callback(server.wait_for, "command")
    kit.open(port=server.port).run(COMMAND)


@call("protocol 1, and the command is silent for too long")
def _(kit: Kit) -> None:
    server = kit.scripted([OLD], [OLD, "read", "mic", "hang"])
    kit.stack.callback(server.wait_for, "command")
    kit.open(port=server.port, timeout=TIMEOUT).run(COMMAND)


@call("`close()` in another thread")
def _(kit: Kit) -> None:
    server = kit.scripted(["handshake", "read", "hang"])
    client = kit.open(port=server.port)

    def close() -> None:
        wait_until(lambda: client._opened_connection().pending)
        client.close()

    thread = threading.Thread(target=close)
    thread.start()
    try:
        client.run(COMMAND)
    finally:
        thread.join()


@call("`noop()`, and the server has gone")
def _(kit: Kit) -> None:
    kit.open(["handshake", "read", "close"]).noop()


@call("the command fails, and `check()` is called")
def _(kit: Kit) -> None:
    remctl.RemctlSimpleResult(None, b"\nno space left\n", 3).check()
