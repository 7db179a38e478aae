# SPDX-License-Identifier: MIT
"""The texts of errors: what failed, with which server, and what follows from it.

They begin with libremctl's own text, where there is one.  What a server has sent never
puts control characters into them.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from remctl._stage import Stage

    # What a connection is doing: the stage, and what follows if it fails.
    Doing = tuple[Stage, str]

RESOLVING: Doing = ("resolve", "")
CONNECTING: Doing = ("connect", "")
AUTHENTICATING: Doing = ("authenticate", "")
SENDING: Doing = ("send", "the command was not sent whole")
# After an error, before the next command: the server has to answer a NOOP.
PROVING: Doing = (
    "send",
    "the command was not sent, as the reply to the last one may go on",
)
READING: Doing = ("reply", "the command may have run")
EXCHANGING_NOOP: Doing = ("reply", "")

# The most characters that are shown of a text that others have made.
LONGEST_LINE = 1000

# The most octets that are shown of what a server that is no remctld has sent.
LONGEST_GREETING = 60

# Beginnings and ends of texts of libremctl and the shim.
EOF = "unexpected end of file"
SURPLUS = "unexpected token from server"
OTHER_MESSAGE = "unexpected message type "
ANSWERED_AGAIN = "the server has answered the last command again"
TOO_LARGE = "token too large"
NO_JOB = ("cannot start a thread: ", "cannot wait for a job: ")
# MIT Kerberos's, of what is no token at all, and before the text that says something.
INVALID = "Invalid token was supplied"
UNSPECIFIED = "Unspecified GSS failure.  Minor code may provide more information, "


def peer(host: str, port: int | None) -> str:
    """Return the name of a server; the port is None for a socket of the caller's."""
    host = printable_line(host)
    if port is None:
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def cannot_connect(host: str, port: int | None) -> str:
    """Return the beginning of the text for a failure to connect."""
    return f"cannot connect to {printable_line(host)}" + (
        f" (port {port})" if port else ""
    )


def printable_line(text: str) -> str:
    """Return ``text`` as one line without control characters, and not too long."""
    line = "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode("ascii")
        for each in text[:LONGEST_LINE]
    )
    return line if len(text) <= LONGEST_LINE else f"{line}..."


def with_reasons(text: str, *reasons: str) -> str:
    """Return ``text``, and in parentheses those of the ``reasons`` that there are."""
    return f"{text} ({'; '.join(filter(None, reasons))})"


def failure(text: str, doing: Doing, server: str, credentials: str, said: bytes) -> str:
    """Return the text for a failure that libremctl or the shim reports as ``text``.

    ``said`` is what the server has sent in the handshake and libremctl has not read.
    """
    text = printable_line(text).replace("token too larger", TOO_LARGE)
    text = text.replace(UNSPECIFIED, "")
    if doing in (RESOLVING, CONNECTING):
        return text
    if text.startswith(NO_JOB):
        return with_reasons(text, server)
    hung_up = f"{server} closed the connection"
    if doing is AUTHENTICATING:
        if text.endswith(TOO_LARGE):
            return not_remctl(server, said)
        if text.endswith(EOF):
            return with_reasons(text, f"{hung_up} in the handshake: see its log")
        if INVALID in text:
            return with_reasons(text, f"{server} may be no remctl server")
        return with_reasons(text, server, credentials)
    consequence = doing[1]
    if doing is SENDING and is_out_of_step(text):
        consequence = "the command was not sent"
    return with_reasons(text, hung_up if text.endswith(EOF) else server, consequence)


def not_remctl(server: str, said: bytes) -> str:
    """Return the text for a server that speaks another protocol."""
    text = f"{server} does not speak remctl"
    return with_reasons(text, f"it sent {greeting(said)}") if said else text


def greeting(said: bytes) -> str:
    """Return the first line that a server has sent, of which ``said`` is the rest.

    libremctl has read five octets, which it took for the header of a token, and does
    not tell which.  For two protocols they follow from the rest.
    """
    rest = said.replace(b"\r", b"\n").partition(b"\n")[0][:LONGEST_GREETING]
    if rest.startswith(b".0-"):
        return repr(b"SSH-2" + rest)
    if rest.startswith((b".99-", b".5-")):
        return repr(b"SSH-1" + rest)
    if rest[:4] in (b"1.0 ", b"1.1 ") and len(rest) > 6 and rest[4:7].isdigit():
        return repr(b"HTTP/" + rest)
    return f"five octets and {rest!r}"


def of_protocol1(doing: Doing, text: str) -> Doing:
    """Return what libremctl was doing, as far as its ``text`` tells, with protocol 1.

    It makes the connection for a command by itself.
    """
    if doing is AUTHENTICATING and text.startswith("unknown host "):
        return RESOLVING
    if doing is AUTHENTICATING and text.startswith("cannot connect to "):
        return CONNECTING
    return doing


def credentials(host: str, principal: str | None, cache: str) -> str:
    """Return which principal a server has to be, and which cache has the tickets."""
    name = printable_line(principal or f"host/{host}")
    return f"server principal {name}, {printable_line(cache)}"


def timed_out(doing: Doing, server: str, timeout: float) -> str:
    """Return the text for a server that was silent for ``timeout`` seconds."""
    silence = duration(timeout)
    if doing is SENDING:
        took = f"{server} took nothing for {silence}"
        return with_reasons("error sending token: timed out", took, doing[1])
    reason = f"{server} was silent for {silence}"
    if doing is AUTHENTICATING:
        reason = f"no answer from {server} or its KDC for {silence}"
    return with_reasons("error receiving token: timed out", reason, doing[1])


def duration(seconds: float) -> str:
    """Return ``seconds`` with their unit."""
    if seconds < 0.001:
        return "less than 0.001 seconds"
    number = f"{seconds:.3f}".rstrip("0").rstrip(".")
    return f"{number} second{'' if number == '1' else 's'}"


def is_out_of_step(text: str) -> bool:
    """Whether the server has sent something after the end of a reply."""
    return text.startswith((SURPLUS, ANSWERED_AGAIN, OTHER_MESSAGE))


def out_of_step(server: str) -> str:
    """Return the text for a connection that is given up after an error."""
    return (
        f"out of step: {server} may have an error for each part of the last command, "
        "so the connection is not used any more"
    )


def resets(server: str, text: str) -> str:
    """Return the text for a server that resets new connections."""
    return (
        f"{server} resets connections before it answers: its queue of new connections "
        f"may be full ({printable_line(text)})"
    )


def downgrade(server: str) -> str:
    """Return the text for a server that now speaks an older protocol."""
    return (
        f"{server} has spoken protocol 2 before and speaks protocol 1 now: refused, "
        "this may be an attack"
    )


def no_sock(server: str) -> str:
    """Return the text for a protocol 1 server at the end of a caller's socket."""
    return (
        f"{server} speaks protocol 1, which takes a connection for each command: sock "
        "cannot serve it"
    )


def large_for_protocol1(server: str, size: int, limit: int) -> str:
    """Return the text for a command that has no room in one message."""
    return (
        f"command too large: {size} octets, and {server} speaks protocol 1, which "
        f"has room for {limit}"
    )


def other_identity(server: str) -> str:
    """Return the text for a command that would run with other credentials."""
    return (
        "KRB5CCNAME was set after open(), and protocol 1 authenticates again for each "
        f"command: open() {server} again to change the identity"
    )
