# SPDX-License-Identifier: MIT
"""A remctl server that does what a script says, misbehaviour included.

Run it with Debian's Python, which has the GSS-API module (package python3-gssapi)::

    /usr/bin/python3 scripted_server.py FD

FD is one end of a UNIX socket. For each octet that comes there, with the standard input
and output of a server to be, a process is forked, which starts faster than an
interpreter. The first line of its input is its script, JSON. The keytab is the one that
KRB5_KTNAME names. The server listens on an unused port of 127.0.0.1 (with ``"ipv6":
true`` on the same port of ::1 too), prints ``{"event": "listening", "port": N, "pid":
P}`` and serves each connection in a thread of its own. It ends when its standard input
does, so it cannot outlive its parent, and on SIGTERM.

The log
-------
Standard output has one JSON object a line; all but the first carry ``connection``
(0, 1, ... in the order of accepting) and, while its script runs, ``step``. A server
that cannot start says why in an "error" without ``connection``.

=========  ==========================================================================
accepted   ``peer`` (address), ``peer_port``
handshake  ``principal`` of the client, ``offered`` (the protocol of the client's
           first token: 1 or 2), ``answered`` (ours)
stopped    a handshake broken off by its option ``stop``: ``how``, ``after``
command    ``protocol``, ``keep_alive``, ``args`` (hex), ``tokens`` (how many it took)
noop       the client sent a NOOP: ``protocol``
quit       the client sent QUIT: ``inside_command`` if it cut a command short
message    any other message of the client: ``hex``
sent       a sending step is done: ``bytes`` (on the wire)
barrier    a barrier was reached: ``name``
eof        the client closed; ``discarded`` or ``partial`` (bytes of an unfinished
           token) say what was thrown away
reset      the connection broke: ``text``
closed     we closed it: ``how`` (close, reset)
error      a step failed, which ends the connection: ``text``
=========  ==========================================================================

The script
----------
``{"connections": [[step, ...], ...], "ipv6": false}``: the first connection accepted
runs the first list, and so on; the last list serves all later ones. A step is
``"name"``, ``["name"]`` or ``["name", {option: value, ...}]``. After its last step a
connection is closed, as by the step close; when the client leaves or a step fails, the
other steps are skipped. A script with an unknown step or option is refused at the
start.

Data options, where "data" is said: ``text`` or ``hex``, and ``size`` (that content, or
"x", repeated to exactly so many bytes).

Wire options, of every sending step and of handshake's replies: ``flags`` (instead of
the right ones), ``length`` (in the header, instead of the true one), ``bitflip`` (flip
a bit of this byte of the payload; true: of its last), ``cut`` (send only the first so
many bytes of the token, and go on), ``chunk`` and ``delay`` (send so many bytes at a
time, with so many seconds between).

handshake       accept the client. ``protocol`` 1: answer without TOKEN_PROTOCOL.
                ``mangle`` "garbage" or "bitflip": spoil the reply. ``stop`` [how, k]:
                how is "close", "reset" or "hang", k the number of tokens received
                before: 0 nothing is read, 1 the empty first token, 2 the client's
                first context token too, which stays unanswered.
read            wait for one message of the client (a continued command is put
                together) and log it
output          data, ``stream`` (1), ``repeat`` (this many tokens), ``protocol`` (the
                version byte, here and in the next four)
status          ``status`` 0..255
error           ``code``, data
version         ``version``: the highest one supported
noop            the answer to a NOOP
message         data: any plaintext, wrapped and sent as a data token; ``encrypt``
                (true): without it, it is only signed
token           data: any payload, sent as it is; give ``flags``
raw             data: bytes for the wire (``cut``, ``chunk`` and ``delay`` apply)
replay          the previous token again
skip            wrap a message and throw it away: its sequence number will be missing
mic             protocol 1: ``kind`` "good" (default), "bad" (of another text) or
                "missing" (send nothing) for the last command
result1         protocol 1: ``status`` (32 bits, signed or not), data
echo            answer the last command with its arguments after the first two, joined
                by NUL, and ``status`` (0). Protocol 1: a good MIC, unless there was a
                mic step, and one result. Protocol 2: outputs of at most 65,529 bytes
                (one, for most commands; none without such arguments), and a status.
serve           behave: answer commands by echo (``status``) and NOOPs as ``noop`` says
                ("reply", "version2" or "error") until the client leaves
sleep           ``seconds``
hang            neither read nor send until the client closes
stop_reading    the same, for scripts whose point is the client's full send buffer. (A
                client that closes with unsent data is not noticed: its FIN is queued
                behind the data.)
flood           outputs of ``size`` bytes on ``stream`` until the client goes
drain           read and throw away until the end of file
wait_eof        read and log messages until the end of file
barrier         log it (``name``), then wait for a line on standard input; one line lets
                one barrier pass, and may come first
close           close in order (FIN, as what we have not read is thrown away first)
reset           close by RST
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import inspect
import itertools
import json
import os
import selectors
import signal
import socket
import struct
import sys
import threading
import time
from select import POLLERR, POLLHUP, POLLRDHUP, poll
from typing import Any, Callable, NamedTuple

try:
    import gssapi  # type: ignore[import-not-found,unused-ignore]
except ImportError as missing:
    sys.exit(f"{missing}: install the Debian package python3-gssapi")

TOKEN_CONTEXT = 0x02
TOKEN_DATA = 0x04
TOKEN_MIC = 0x08
TOKEN_SEND_MIC = 0x20
TOKEN_PROTOCOL = 0x40
HEADER = struct.Struct("!BL")

COMMAND, QUIT, OUTPUT, STATUS, ERROR, VERSION, NOOP = range(1, 8)
COMPLETE, FIRST, MIDDLE, LAST = range(4)  # the continue status of a command
ERROR_UNKNOWN_MESSAGE = 3
MAX_OUTPUT = 65536 - 7  # the protocol allows 64 KiB of plaintext a token

log_lock = threading.Lock()
barriers = threading.Semaphore(0)


class ClosedError(Exception):
    """We closed the connection on purpose: skip the rest of its script."""


@dataclasses.dataclass(frozen=True)
class Data:
    """The data options of a step."""

    text: str = ""
    hex: str = ""
    size: int | None = None

    def __post_init__(self) -> None:
        """Refuse bad data when the script is read."""
        if self.text and self.hex:
            raise ValueError("give text or hex, not both")
        bytes.fromhex(self.hex)

    def content(self) -> bytes:
        """Return the bytes these options stand for."""
        content = bytes.fromhex(self.hex) or self.text.encode()
        if self.size is None:
            return content
        content = content or b"x"
        return (content * (self.size // len(content) + 1))[: self.size]


@dataclasses.dataclass(frozen=True)
class Wire:
    """The wire options of a step."""

    flags: int | None = None
    length: int | None = None
    bitflip: int | None = None
    cut: int | None = None
    chunk: int | None = None
    delay: float = 0.0


class Token(NamedTuple):
    """A token as it went over the wire; its length may be a lie."""

    flags: int
    length: int
    payload: bytes


class Step(NamedTuple):
    """A step of the script, ready to be called."""

    name: str
    function: Callable[..., None]
    arguments: dict[str, Any]


class Connection:
    """One client: its socket, its security context, and what it said last."""

    def __init__(self, number: int, sock: socket.socket) -> None:
        """Serve the accepted socket under this number."""
        self.number = number
        self.sock = sock
        self.context: Any = None
        self.step = ""
        self.bytes_sent = 0
        self.sent: Token | None = None
        self.command: list[bytes] = []
        self.command_protocol = 2
        self.keep_alive = True
        self.mic_text = b""
        self.mic_due = False

    def log(self, event: str, **fields: object) -> None:
        """Log an event of this connection."""
        if self.step:
            fields["step"] = self.step
        log(event, connection=self.number, **fields)

    def run(self, steps: list[Step]) -> None:
        """Run the script, then close; whatever goes wrong goes into the log."""
        try:
            for step in steps:
                self.run_step(step)
            self.step = ""
            close(self)
        except ClosedError:
            pass
        except EOFError as end:
            self.log("eof", **end.args[0])
        except ConnectionError as broken:
            self.log("reset", text=str(broken))
        except Exception as failure:  # noqa: BLE001  (the log is how a test sees it)
            self.log("error", text=f"{type(failure).__name__}: {failure}")
        finally:
            self.sock.close()

    def run_step(self, step: Step) -> None:
        """Run one step; a sending one is logged when all is sent."""
        self.step = step.name
        before = self.bytes_sent
        step.function(self, **step.arguments)
        if step.name in SENDING:
            self.log("sent", bytes=self.bytes_sent - before)

    # Receiving

    def read_exactly(self, count: int) -> bytes:
        """Read that many bytes."""
        data = bytearray()
        while len(data) < count:
            piece = self.sock.recv(min(count - len(data), 1 << 20))
            if not piece:
                raise EOFError({"partial": len(data)} if data else {})
            data += piece
        return bytes(data)

    def read_token(self) -> tuple[int, bytes]:
        """Read a token; return its flags and payload."""
        header = self.read_exactly(HEADER.size)
        flags, length = HEADER.unpack(header)
        try:
            return flags, self.read_exactly(length)
        except EOFError as end:
            partial = HEADER.size + end.args[0].get("partial", 0)
            raise EOFError({"partial": partial}) from None

    def read_plaintext(self) -> tuple[int, bytes]:
        """Read a data token; return its flags and what was wrapped in it."""
        flags, payload = self.read_token()
        return flags, self.context.unwrap(payload).message

    def read_message(self) -> str:
        """Read one message of the client and log it; return the event's name."""
        flags, plaintext = self.read_plaintext()
        if not flags & TOKEN_PROTOCOL:
            self.mic_text, self.mic_due = plaintext, bool(flags & TOKEN_SEND_MIC)
            return self.note_command(plaintext, protocol=1, keep_alive=False, tokens=1)
        protocol, kind = plaintext[0], plaintext[1]
        if kind == COMMAND:
            return self.read_command(plaintext)
        if kind == QUIT:
            self.log("quit")
            return "quit"
        if kind == NOOP:
            self.log("noop", protocol=protocol)
            return "noop"
        self.log("message", hex=plaintext.hex())
        return "message"

    def read_command(self, plaintext: bytes) -> str:
        """Put a command together from its first message and those that follow."""
        body = bytearray()
        allowed = (COMPLETE, FIRST)
        for tokens in itertools.count(1):
            if plaintext[1] == QUIT:
                break
            protocol, kind, keep_alive, progress = plaintext[:4]
            if kind != COMMAND or progress not in allowed:
                # A client that mixes two commands up must not go unnoticed.
                raise ValueError(f"message {kind} with continue status {progress}")
            body += plaintext[4:]
            if progress in (COMPLETE, LAST):
                return self.note_command(
                    bytes(body),
                    protocol=protocol,
                    keep_alive=bool(keep_alive),
                    tokens=tokens,
                )
            allowed = (MIDDLE, LAST)
            plaintext = self.read_plaintext()[1]
        self.log("quit", inside_command=True)
        return "quit"

    def note_command(
        self, body: bytes, *, protocol: int, keep_alive: bool, tokens: int
    ) -> str:
        """Remember and log a whole command."""
        self.command = parse_arguments(body)
        self.command_protocol = protocol
        self.keep_alive = keep_alive
        self.log(
            "command",
            protocol=protocol,
            keep_alive=keep_alive,
            args=[argument.hex() for argument in self.command],
            tokens=tokens,
        )
        return "command"

    # Sending

    def send_bytes(self, data: bytes, wire: Wire) -> None:
        """Send bytes, cut and dribbled as asked."""
        if wire.cut is not None:
            data = data[: wire.cut]
        chunk = wire.chunk or len(data) or 1
        for start in range(0, len(data), chunk):
            if start and wire.delay:
                time.sleep(wire.delay)
            self.sock.sendall(data[start : start + chunk])
        self.bytes_sent += len(data)

    def send_token(self, token: Token, wire: Wire) -> None:
        """Send a token, spoiled as asked."""
        flags, length, payload = token
        if wire.bitflip is not None:
            payload = flip_bit(payload, wire.bitflip)
        if wire.flags is not None:
            flags = wire.flags
        if wire.length is not None:
            length = wire.length
        self.sent = Token(flags, length, payload)
        self.send_bytes(HEADER.pack(flags, length) + payload, wire)

    def send_payload(self, flags: int, payload: bytes, wire: Wire) -> None:
        """Send a token of this payload as it is."""
        self.send_token(Token(flags, len(payload), payload), wire)

    def send_wrapped(self, flags: int, plaintext: bytes, wire: Wire) -> None:
        """Send a token of this plaintext, encrypted."""
        self.send_payload(flags, self.wrap(plaintext), wire)

    def wrap(self, plaintext: bytes, *, encrypt: bool = True) -> bytes:
        """Wrap a plaintext, which uses up a sequence number."""
        wrapped: bytes = self.context.wrap(plaintext, encrypt=encrypt).message
        return wrapped

    def send_message(self, protocol: int, kind: int, body: bytes, wire: Wire) -> None:
        """Send a message of protocol 2 or 3."""
        plaintext = bytes([protocol, kind]) + body
        self.send_wrapped(TOKEN_DATA | TOKEN_PROTOCOL, plaintext, wire)


def log(event: str, **fields: object) -> None:
    """Print one event as a line of its own."""
    line = json.dumps({"event": event, **fields}) + "\n"
    with log_lock:
        sys.stdout.write(line)
        sys.stdout.flush()


def parse_arguments(body: bytes) -> list[bytes]:
    """Split the body of a command: a count, then that many counted strings."""
    (count,) = struct.unpack_from("!L", body)
    arguments, position = [], 4
    for _ in range(count):
        (length,) = struct.unpack_from("!L", body, position)
        position += 4 + length
        arguments.append(body[position - length : position])
    if position != len(body):
        raise ValueError(f"{len(body)} bytes of command, {position} accounted for")
    return arguments


def counted(data: bytes) -> bytes:
    """Put the length in front of a string."""
    return struct.pack("!L", len(data)) + data


def flip_bit(payload: bytes, index: int) -> bytes:
    """Flip a bit of the byte at this index; True stands for the last byte."""
    spoiled = bytearray(payload)
    spoiled[-1 if index is True else index] ^= 0x01
    return bytes(spoiled)


def garble(payload: bytes) -> bytes:
    """Make as many bytes that mean nothing."""
    return bytes((7 * index + 13) & 0xFF for index in range(len(payload)))


MANGLES: dict[str | None, Callable[[bytes], bytes]] = {
    None: bytes,
    "garbage": garble,
    "bitflip": lambda payload: flip_bit(payload, -1),
}


# The steps that listen or wait


def handshake(
    connection: Connection,
    wire: Wire,
    protocol: int = 2,
    mangle: str | None = None,
    stop: tuple[str, int] = ("never", -1),
) -> None:
    """Establish the security context, or break off on the way."""
    flags = TOKEN_CONTEXT | (TOKEN_PROTOCOL if protocol > 1 else 0)
    context = gssapi.SecurityContext(usage="accept")

    how, after = stop

    def stop_if(received: int) -> None:
        if received == after:
            connection.log("stopped", how=how, after=after)
            {"close": close, "reset": reset, "hang": hang}[how](connection)

    stop_if(0)
    first_flags, _ = connection.read_token()
    stop_if(1)
    for received in itertools.count(2):
        _, payload = connection.read_token()
        stop_if(received)
        reply = context.step(payload)
        if reply:
            connection.send_payload(flags, MANGLES[mangle](reply), wire)
        if context.complete:
            break
    connection.context = context
    connection.log(
        "handshake",
        principal=str(context.initiator_name),
        offered=2 if first_flags & TOKEN_PROTOCOL else 1,
        answered=protocol,
    )


def read(connection: Connection) -> None:
    """Read one message."""
    connection.read_message()


def serve(connection: Connection, status: int = 0, noop: str = "reply") -> None:
    """Behave until the client leaves, or sends a command without keep-alive."""
    answers = {
        "command": make_step(["echo", {"status": status}]),
        "noop": make_step(NOOP_ANSWERS[noop]),
        "message": make_step(NOOP_ANSWERS["error"]),
    }
    while True:
        event = connection.read_message()
        if event == "quit":
            return
        connection.run_step(answers[event])
        connection.step = "serve"
        if event == "command" and not connection.keep_alive:
            return


def sleep(_connection: Connection, seconds: float) -> None:
    """Wait for some time."""
    time.sleep(seconds)


def hang(connection: Connection) -> None:
    """Wait until the client closes, without reading what it sends."""
    poller = poll()
    poller.register(connection.sock, POLLRDHUP)  # errors are always reported
    ((_, events),) = poller.poll()
    if events & (POLLERR | POLLHUP):
        code = connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        raise ConnectionResetError(code or errno.ECONNRESET, "while hanging")
    raise EOFError({})


def drain(connection: Connection) -> None:
    """Throw away what the client sends until it closes."""
    discarded = 0
    while True:
        piece = connection.sock.recv(1 << 20)
        if not piece:
            raise EOFError({"discarded": discarded})
        discarded += len(piece)


def wait_eof(connection: Connection) -> None:
    """Log what the client sends until it closes."""
    if connection.context is None:
        drain(connection)
    while True:
        connection.read_message()


def barrier(connection: Connection, name: str = "") -> None:
    """Wait for a line on standard input."""
    connection.log("barrier", name=name)
    barriers.acquire()


# The steps that send


def output(
    connection: Connection,
    data: Data,
    wire: Wire,
    *,
    stream: int = 1,
    repeat: int = 1,
    protocol: int = 2,
) -> None:
    """Send outputs."""
    body = bytes([stream]) + counted(data.content())
    for _ in range(repeat):
        connection.send_message(protocol, OUTPUT, body, wire)


def status(
    connection: Connection, wire: Wire, status: int = 0, protocol: int = 2
) -> None:
    """Send the exit status of a command."""
    connection.send_message(protocol, STATUS, bytes([status]), wire)


def error(
    connection: Connection, data: Data, wire: Wire, code: int, protocol: int = 2
) -> None:
    """Send an error."""
    body = struct.pack("!L", code & 0xFFFFFFFF) + counted(data.content())
    connection.send_message(protocol, ERROR, body, wire)


def version(
    connection: Connection, wire: Wire, version: int, protocol: int = 2
) -> None:
    """Say which protocol version is the highest we know."""
    connection.send_message(protocol, VERSION, bytes([version]), wire)


def noop(connection: Connection, wire: Wire, protocol: int = 3) -> None:
    """Answer a NOOP."""
    connection.send_message(protocol, NOOP, b"", wire)


def message(
    connection: Connection, data: Data, wire: Wire, *, encrypt: bool = True
) -> None:
    """Send any plaintext, wrapped."""
    payload = connection.wrap(data.content(), encrypt=encrypt)
    connection.send_payload(TOKEN_DATA | TOKEN_PROTOCOL, payload, wire)


def token(connection: Connection, data: Data, wire: Wire) -> None:
    """Send any payload, not wrapped."""
    connection.send_payload(TOKEN_DATA | TOKEN_PROTOCOL, data.content(), wire)


def raw(connection: Connection, data: Data, wire: Wire) -> None:
    """Send bytes that need not be a token."""
    connection.send_bytes(data.content(), wire)


def replay(connection: Connection, wire: Wire) -> None:
    """Send the previous token again."""
    if connection.sent is None:
        raise ValueError("there is no previous token")
    connection.send_token(connection.sent, wire)


def skip(connection: Connection) -> None:
    """Use up a sequence number."""
    connection.wrap(b"never sent")


def mic(connection: Connection, wire: Wire, kind: str = "good") -> None:
    """Prove with a MIC, or fail to, that the command of protocol 1 arrived intact."""
    texts = {"good": connection.mic_text, "bad": connection.mic_text + b"?"}
    if kind != "missing":
        signature = connection.context.get_signature(texts[kind])
        connection.send_payload(TOKEN_MIC, signature, wire)
    connection.mic_due = False


def result1(connection: Connection, data: Data, wire: Wire, status: int = 0) -> None:
    """Send the one result of a protocol 1 command."""
    body = struct.pack("!L", status & 0xFFFFFFFF) + counted(data.content())
    connection.send_wrapped(TOKEN_DATA, body, wire)


def echo(connection: Connection, wire: Wire, status: int = 0) -> None:
    """Answer the last command with its own arguments."""
    arguments = connection.command[2:]
    answer = b"\0".join(arguments)
    if connection.command_protocol == 1:
        if connection.mic_due:
            mic(connection, Wire())
        result1(connection, Data(hex=answer.hex()), wire, status)
        return
    for start in range(0, len(answer) or len(arguments), MAX_OUTPUT):
        piece = answer[start : start + MAX_OUTPUT]
        connection.send_message(2, OUTPUT, b"\1" + counted(piece), wire)
    connection.send_message(2, STATUS, bytes([status]), wire)


def flood(connection: Connection, size: int = MAX_OUTPUT, stream: int = 1) -> None:
    """Send outputs for as long as there is a client."""
    body = bytes([stream]) + counted(bytes(size))
    while True:
        connection.send_message(2, OUTPUT, body, Wire())


# The steps that close


def close(connection: Connection) -> None:
    """Close in order."""
    # Closing with unread data in the buffer would send RST instead of FIN.
    connection.sock.settimeout(0)
    with contextlib.suppress(BlockingIOError, ConnectionError):
        while connection.sock.recv(1 << 20):
            pass
    connection.sock.close()
    connection.log("closed", how="close")
    raise ClosedError


def reset(connection: Connection) -> None:
    """Close by RST."""
    linger = struct.pack("ii", 1, 0)
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    connection.sock.close()
    connection.log("closed", how="reset")
    raise ClosedError


SENDING: dict[str, Callable[..., None]] = {
    "output": output,
    "status": status,
    "error": error,
    "version": version,
    "noop": noop,
    "message": message,
    "token": token,
    "raw": raw,
    "replay": replay,
    "mic": mic,
    "result1": result1,
    "echo": echo,
    "flood": flood,
}
STEPS: dict[str, Callable[..., None]] = {
    **SENDING,
    "handshake": handshake,
    "read": read,
    "serve": serve,
    "skip": skip,
    "sleep": sleep,
    "hang": hang,
    "stop_reading": hang,
    "drain": drain,
    "wait_eof": wait_eof,
    "barrier": barrier,
    "close": close,
    "reset": reset,
}
NOOP_ANSWERS: dict[str, list[Any]] = {
    "reply": ["noop"],
    "version2": ["version", {"version": 2}],
    "error": ["error", {"code": ERROR_UNKNOWN_MESSAGE, "text": "Unknown message"}],
}


def make_step(entry: str | list[Any]) -> Step:
    """Look up the function of a step and sort the options into its parameters."""
    name, *rest = [entry] if isinstance(entry, str) else entry
    options = dict(*rest)
    if name not in STEPS:
        raise ValueError(f"unknown step {name!r}")
    function = STEPS[name]
    signature = inspect.signature(function)
    groups: dict[str, type[Data | Wire]] = {"data": Data, "wire": Wire}
    for parameter, group in groups.items():
        if parameter in options:
            raise ValueError(f"{name}: there is no option {parameter!r}")
        if parameter in signature.parameters:
            names = {field.name for field in dataclasses.fields(group)}
            given = {key: options.pop(key) for key in names & options.keys()}
            options[parameter] = group(**given)
    try:
        signature.bind(None, **options)
    except TypeError as mistake:
        raise ValueError(f"{name}: {mistake}") from None
    return Step(name, function, options)


def load_script(connections: list[list[Any]]) -> list[list[Step]]:
    """Make the steps of each connection."""
    if not connections:
        raise ValueError("a script needs at least one connection")
    return [[make_step(entry) for entry in steps] for steps in connections]


def listen(*, ipv6: bool) -> list[socket.socket]:
    """Listen on an unused port, the same one for both families."""
    while True:
        first = socket.create_server(("127.0.0.1", 0))
        if not ipv6:
            return [first]
        address = ("::1", first.getsockname()[1])
        try:
            second = socket.create_server(address, family=socket.AF_INET6)
        except OSError as taken:
            first.close()
            if taken.errno != errno.EADDRINUSE:
                raise
        else:
            return [first, second]


def accept_all(listeners: list[socket.socket], script: list[list[Step]]) -> None:
    """Give each connection a number, its script and a thread."""
    selector = selectors.DefaultSelector()
    for listener in listeners:
        listener.settimeout(0)
        selector.register(listener, selectors.EVENT_READ, listener)
    numbers = itertools.count()
    while True:
        for key, _ in selector.select():
            try:
                sock, peer = key.data.accept()
            except (BlockingIOError, ConnectionAbortedError):
                continue
            sock.settimeout(None)
            # A chunk must leave at once, not wait for the ACK of the one before.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(next(numbers), sock)
            connection.log("accepted", peer=peer[0], peer_port=peer[1])
            steps = script[min(connection.number, len(script) - 1)]
            threading.Thread(target=connection.run, args=(steps,), daemon=True).start()


def serve_script() -> None:
    """Serve until standard input ends."""
    try:
        options = json.loads(sys.stdin.buffer.readline())
        script = load_script(options["connections"])
    except (ValueError, TypeError, LookupError) as mistake:
        log("error", text=f"bad script: {mistake}")
        return
    listeners = listen(ipv6=options["ipv6"])
    log("listening", port=listeners[0].getsockname()[1], pid=os.getpid())
    threading.Thread(target=accept_all, args=(listeners, script), daemon=True).start()
    for _ in sys.stdin.buffer:
        barriers.release()
    # The threads are anywhere; only a line being printed is worth waiting for.
    log_lock.acquire(timeout=1)


# How many of the youngest processes are not waited for.
UNREAPED = 50


def main() -> None:
    """Fork servers until the socket ends."""
    # Ctrl-C is for the test that may be running; SIGTERM must work even if the parent
    # blocked it, as a test of signals may.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    control = socket.socket(fileno=int(sys.argv[1]))
    children: list[int] = []
    while True:
        octet, fds, _, _ = socket.recv_fds(control, 1, 2)
        if not octet:
            return
        # Not waited for at once, so that nobody else gets the number that SIGTERM is
        # sent to; but what looks through all processes is slow with too many.
        for old in children[:-UNREAPED]:
            if os.waitpid(old, os.WNOHANG) != (0, 0):
                children.remove(old)
        child = os.fork()
        if child == 0:
            control.close()
            for fd, standard in zip(fds, (0, 1)):
                os.dup2(fd, standard)
                os.close(fd)
            serve_script()
            os._exit(0)
        children.append(child)
        for fd in fds:
            os.close(fd)


if __name__ == "__main__":
    main()
