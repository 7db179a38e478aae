# SPDX-License-Identifier: MIT
"""What a hostile server can do, and what must come of it: one table.

Hazards 1, 4, 5, 16, 22, 30 to 33, 35, 38 to 40, 46 and 53.

A Variant is a script for the scripted server, the calls of a client, what the last of
these gives, and the state it leaves.  The first calls succeed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import remctl

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMAND = ["test", "x"]
# Larger than all that the kernel takes when nobody reads.
LARGE = ["test", b"x" * 16_000_000]
STALLED = 0.3  # the time-out, in seconds, of variants in which the server stalls

DONE = remctl.RemctlSimpleResult(None, None, 0)


class Variant(NamedTuple):
    """One thing that a server does, and what must come of it."""

    # A list of steps for each connection; the last serves all later ones.
    script: list[list[Any]]
    # The methods' names (the command is COMMAND), "write" (a LARGE one), "flood" (one
    # without an end), and "wait" for the server to say something.
    calls: str
    # The exception's class, or the result; the exception's text and code.
    expected: object
    text: str = ""
    code: int | None = None
    # Whether the object is open afterwards.
    opened: bool = False
    # How many whole commands the server has received.
    commands: int = 0
    timeout: float | None = None
    # Whether the server has received QUIT; None where it cannot tell.
    quits: bool | None = None
    # The exception's stage.
    stage: str | None = None


def lost(
    script: list[Any],
    calls: str,
    text: str,
    commands: int = 0,
    stage: str = "reply",
) -> Variant:
    """Return a Variant that loses the connection."""
    return Variant(
        [script],
        calls,
        remctl.RemctlError,
        text,
        commands=commands,
        stage="authenticate" if calls == "open" else stage,
    )


def stalled(
    script: list[Any], calls: str, commands: int = 0, stage: str = "reply"
) -> Variant:
    """Return a Variant in which the server says no more, and does not leave."""
    return Variant(
        [[*script, "hang"]],
        calls,
        remctl.RemctlTimeoutError,
        "timed out",
        commands=commands,
        timeout=STALLED,
        stage="authenticate" if calls == "open" else stage,
    )


EOF = "unexpected end of file"
SURPLUS = "unexpected token from server"
GSSAPI = "GSS-API error"
REPLY = ["handshake", "read"]
# The stage of a call that fails before it has sent anything.
BEFORE = [("run", "send"), ("noop", "reply")]


def plain(hexadecimal: str) -> list[Any]:
    """Return a step that sends a message of these bytes, properly encrypted."""
    return ["message", {"hex": hexadecimal}]


def handshakes() -> Iterator[tuple[str, Variant]]:
    """Yield what can be wrong up to the end of the handshake."""
    for after, where in enumerate(["accept", "first token", "context token"]):
        for how in ("close", "hang"):
            script: list[Any] = [["handshake", {"stop": [how, after]}]]
            name = f"{how} after {where}"
            if how == "hang":
                yield name, stalled(script, "open")
            else:
                yield name, lost(script, "open", "")
    for cut in (1, 4, 5, 60):
        script = [["handshake", {"cut": cut}]]
        yield f"close after {cut} octets of the answer", lost(script, "open", EOF)
        yield f"silence after {cut} octets of the answer", stalled(script, "open")
        script = [["handshake", {"cut": cut}], "reset"]
        yield f"reset after {cut} octets of the answer", lost(script, "open", EOF)
    for name, options, text in [
        ("garbage", {"mangle": "garbage"}, GSSAPI),
        ("bit flip", {"mangle": "bitflip"}, GSSAPI),
        ("length 0", {"length": 0}, GSSAPI),
        ("length too small", {"length": 20}, GSSAPI),
        ("length 2^20+1", {"length": 2**20 + 1}, "does not speak remctl"),
        ("length 2^32-1", {"length": 2**32 - 1}, "does not speak remctl"),
    ]:
        yield f"answer of {name}", lost([["handshake", options], "hang"], "open", text)
    for octet in range(0, 150, 30):
        script = [["handshake", {"bitflip": octet}], "hang"]
        yield f"bit flip in octet {octet} of the answer", lost(script, "open", GSSAPI)
    byte_by_byte = [["handshake", {"chunk": 1}], "read", "status"]
    yield (
        "answer octet by octet",
        Variant([byte_by_byte], "open, run", DONE, opened=True, commands=1),
    )


def replies() -> Iterator[tuple[str, Variant]]:
    """Yield what can be wrong in the reply to a command."""
    points: list[tuple[str, list[Any]]] = [
        ("before the reply", []),
        ("in a header", [["output", {"cut": 3}]]),
        ("after a header", [["output", {"cut": 5}]]),
        ("in a token", [["output", {"cut": 40}]]),
        ("after an output", ["output"]),
        ("in the status", ["output", ["status", {"cut": 40}]]),
        ("in an error", [["error", {"code": 1, "cut": 20}]]),
    ]
    for where, steps in points:
        for how in ("close", "reset"):
            script = [*REPLY, *steps, how]
            yield f"{how} {where}", lost(script, "open, run", EOF, 1)
        yield f"silence {where}", stalled([*REPLY, *steps], "open, run", 1)
    wrong: list[tuple[str, list[Any], str]] = [
        ("replayed token", ["output", "replay"], GSSAPI),
        ("missing sequence number", ["skip", "status"], GSSAPI),
        ("garbage", [["token", {"text": "junk", "flags": 0x44}]], GSSAPI),
        ("token of length 0", [["token", {"flags": 0x44}]], GSSAPI),
        ("text", [["raw", {"text": "HTTP/1.1 400"}]], "too large"),
        ("length 2^20+1", [["status", {"length": 2**20 + 1}]], "too large"),
        ("length 2^32-1", [["status", {"length": 2**32 - 1}]], "too large"),
        ("length too small", [["status", {"length": 20}]], GSSAPI),
        ("no flags", [["status", {"flags": 0x00}]], SURPLUS),
        ("protocol 1 flags", [["status", {"flags": 0x04}]], SURPLUS),
        ("handshake flags", [["status", {"flags": 0x42}]], SURPLUS),
        ("MIC demanded", [["status", {"flags": 0x24}]], SURPLUS),
        ("MIC demanded too", [["status", {"flags": 0x64}]], SURPLUS),
        ("protocol 1 result", ["result1"], SURPLUS),
        ("stream 0", [["output", {"stream": 0}]], "unexpected stream"),
        ("stream 3", [["output", {"stream": 3}]], "unexpected stream"),
        ("protocol 9 in an output", [["output", {"protocol": 9}]], "protocol 9"),
        ("stream 255", [["output", {"stream": 255}]], "unexpected stream"),
        ("noop", ["noop"], "unknown message type 7"),
        ("version", [["version", {"version": 2}]], "type 6 from server"),
        ("command", [plain("0201")], "unknown message type 1 "),
        ("quit", [plain("0202")], "unknown message type 2 "),
        ("type 0", [plain("0200")], "unknown message type 0"),
        ("type 99", [plain("0263")], "unknown message type 99"),
        ("type 255", [plain("02ff")], "unknown message type"),
        ("protocol 0", [plain("000400")], "unexpected protocol 0"),
        ("protocol 1", [plain("010400")], "unexpected protocol 1"),
        ("protocol 9", [plain("090400")], "unexpected protocol 9"),
        ("protocol 255", [plain("ff0400")], "unexpected protocol"),
        ("empty message", [["message", {"hex": ""}]], "malformed"),
        ("one octet", [plain("02")], "malformed"),
        ("output without anything", [plain("0203")], "malformed"),
        ("output without length", [plain("020301")], "malformed"),
        ("output one short", [plain("0203010000000361" + "62")], "malformed"),
        ("output one long", [plain("020301000000016162")], "malformed"),
        ("output of length -1", [plain("020301ffffffff61")], "malformed"),
        ("output of length -2^31", [plain("0203018000000061")], "malformed"),
        ("status without status", [plain("0204")], "malformed"),
        ("status one long", [plain("02040000")], "malformed"),
        ("error without anything", [plain("0205")], "malformed"),
        ("error without length", [plain("020500000001")], "malformed"),
        ("error one short", [plain("0205000000010000000261")], "malformed"),
        ("error one long", [plain("020500000001000000016162")], "malformed"),
        ("error of length -1", [plain("020500000001ffffffff61")], "malformed"),
    ]
    wrong += [
        (f"bit flip in octet {octet}", [["status", {"bitflip": octet}]], GSSAPI)
        for octet in range(0, 60, 12)
    ]
    for name, hexadecimal in [
        ("output", "0203010000000161"),
        ("status", "020407"),
        ("error", "020500000001000000016e"),
        ("message of type 99", "0263"),
    ]:
        for how, options in [("", {}), (" octet by octet", {"chunk": 1})]:
            step = ["message", {"hex": hexadecimal, "encrypt": False, **options}]
            wrong.append((f"{name} that is only signed{how}", [step], "not encrypted"))
    for name, steps, text in wrong:
        yield f"reply with {name}", lost([*REPLY, *steps, "hang"], "open, run", text, 1)


def surpluses() -> Iterator[tuple[str, Variant]]:
    """Yield what can come when nothing is due, or the end."""
    surplus: list[tuple[str, Any]] = [
        ("output", ["output", {"text": "late"}]),
        ("second status", "status"),
        ("output on standard error", ["output", {"text": "late", "stream": 2}]),
        ("error", ["error", {"code": 1, "text": "late"}]),
        ("replayed status", "replay"),
        ("noop", "noop"),
        ("octet", ["raw", {"hex": "00"}]),
    ]
    for name, step in surplus:
        for call, stage in BEFORE:
            script = [*REPLY, "status", step, "hang"]
            calls = f"open, run, wait, {call}"
            yield f"{name} after status, {call}", lost(script, calls, SURPLUS, 1, stage)
        script = ["handshake", step, "hang"]
        if name != "replayed status":
            variant = lost(script, "open, wait, run", SURPLUS, 0, "send")
            yield f"{name} before a command", variant
    error = ["error", {"code": 1, "text": "no"}]
    for name, step in surplus:
        if name != "replayed status":
            script = [*REPLY, error, step, "hang"]
            calls = "open, command, output, wait, run"
            yield f"{name} after error", lost(script, calls, SURPLUS, 1, "send")
    for how in ("close", "reset"):
        for call, stage in BEFORE:
            script = [*REPLY, "status", how]
            calls = f"open, run, wait, {call}"
            yield f"{how} after status, {call}", lost(script, calls, EOF, 1, stage)


def noops() -> Iterator[tuple[str, Variant]]:
    """Yield what can be wrong in the answer to a NOOP."""
    wrong: list[tuple[str, list[Any], str]] = [
        ("close", ["close"], EOF),
        ("reset", ["reset"], EOF),
        ("close in a header", [["noop", {"cut": 3}], "close"], EOF),
        ("close in a token", [["noop", {"cut": 20}], "close"], EOF),
        ("reset in a token", [["noop", {"cut": 20}], "reset"], EOF),
        ("bit flip", [["noop", {"bitflip": 30}]], GSSAPI),
        ("garbage", [["token", {"text": "junk", "flags": 0x44}]], GSSAPI),
        ("token of length 0", [["token", {"flags": 0x44}]], GSSAPI),
        ("length 2^20+1", [["noop", {"length": 2**20 + 1}]], "too large"),
        ("length 2^32-1", [["noop", {"length": 2**32 - 1}]], "too large"),
        ("MIC demanded", [["noop", {"flags": 0x24}]], SURPLUS),
        ("protocol 9", [["noop", {"protocol": 9}]], "protocol 9"),
        ("output", ["output"], "unexpected message type 3"),
        ("status", ["status"], "unexpected message type 4"),
        ("type 99", [plain("0263")], "unexpected message type 99"),
        ("one octet", [plain("03")], "malformed"),
    ]
    for name, steps, text in wrong:
        script = [*REPLY, *steps, "hang"]
        yield f"noop answered by {name}", lost(script, "open, noop", text)
    for name, steps in [
        ("silence", []),
        ("half a header", [["noop", {"cut": 3}]]),
        ("half a token", [["noop", {"cut": 20}]]),
    ]:
        yield f"noop answered by {name}", stalled([*REPLY, *steps], "open, noop")
    error = ["error", {"code": 3, "text": "Unknown message"}]
    answers: list[tuple[str, list[Any], bool]] = [
        ("noop", ["noop"], True),
        ("noop octet by octet", [["noop", {"chunk": 1}]], True),
        ("version", [["version", {"version": 2}]], False),
        # Asked again, as each may be another answer to a command.
        ("errors", [error, *15 * ["read", error]], False),
    ]
    for name, steps, expected in answers:
        script = [*REPLY, *steps, "read", "status"]
        yield (
            f"noop answered by {name}",
            Variant([script], "open, noop", expected, opened=True),
        )
    again = "answered the last command again"
    for step in ("noop", ["version", {"version": 2}]):
        script = [*REPLY, error, "read", step, "hang"]
        yield f"noop answered by error and {step}", lost(script, "open, noop", again)


def on_stream_2(steps: list[Any]) -> list[Any]:
    """Return steps that send the same outputs as standard error."""
    pairs = [(step, {}) if isinstance(step, str) else step for step in steps]
    return [[name, {**options, "stream": 2}] for name, options in pairs]


def oddities() -> Iterator[tuple[str, Variant]]:
    """Yield what is unusual but right."""
    outputs: list[tuple[str, list[Any], bytes | None]] = [
        ("octet by octet", [["output", {"text": "abc", "chunk": 1}]], b"abc"),
        ("a zero-length output", ["output"], None),
        ("two zero-length outputs", [["output", {"repeat": 2}]], None),
        ("a thousand of them", [["output", {"repeat": 1000}]], None),
        ("a megabyte", [["output", {"size": 1_000_000}]], b"x" * 1_000_000),
    ]
    for name, steps, stdout in outputs:
        script = [*REPLY, *on_stream_2(steps), "status"]
        result = remctl.RemctlSimpleResult(None, stdout, 0)
        yield (
            f"{name} on stream 2",
            Variant([script], "open, run", result, opened=True, commands=1),
        )
        result = remctl.RemctlSimpleResult(stdout, None, 0)
        script = [*REPLY, *steps, ["status", {"chunk": 1}]]
        yield name, Variant([script], "open, run", result, opened=True, commands=1)
    for protocol in (2, 3):
        answer: list[Any] = [
            ["output", {"text": "a", "protocol": protocol}],
            ["status", {"status": 3, "protocol": protocol}],
        ]
        yield (
            f"a reply of protocol {protocol}",
            Variant(
                [[*REPLY, *answer]],
                "open, run",
                remctl.RemctlSimpleResult(b"a", None, 3),
                opened=True,
                commands=1,
            ),
        )
    errors = {
        "NUL": b"before\0after",
        "Latin-1": "caf\u00e9".encode("latin-1"),
        "nothing": b"",
        "a megabyte": b"x" * 1_000_000,
    }
    for name, text in errors.items():
        for code in (0, 6, 2**32 - 1):
            error = ["error", {"code": code, "hex": text.hex(), "size": len(text)}]
            yield (
                f"error {code} with {name}",
                Variant(
                    [[*REPLY, ["output", {"text": "x"}], error, "hang"]],
                    "open, run",
                    remctl.RemctlProtocolError,
                    text.decode("utf-8", "backslashreplace"),
                    code=code,
                    opened=True,
                    commands=1,
                    stage="reply",
                ),
            )
    yield (
        "an endless flood",
        Variant(
            [[*REPLY, ["flood", {"size": 1000, "stream": 1}]]],
            "open, flood",
            None,
            commands=1,
        ),
    )
    yield (
        "a server that never reads",
        Variant(
            [["handshake", "stop_reading"]],
            "open, write",
            remctl.RemctlTimeoutError,
            "timed out",
            timeout=STALLED,
            stage="send",
        ),
    )


def closes() -> Iterator[tuple[str, Variant]]:
    """Yield what a server can do when the client closes, which never fails."""
    output = ["output", {"size": 1000}]
    flood = ["flood", {"size": 1000}]
    # QUIT is for connections that are idle, as far as we know.
    states: list[tuple[str, list[Any], str, bool | None]] = [
        ("an idle one", ["handshake", "wait_eof"], "open", True),
        ("one after a reply", [*REPLY, "status", "wait_eof"], "open, run", True),
        ("one before a reply", [*REPLY, "wait_eof"], "open, command", False),
        (
            "one in a reply",
            [*REPLY, output, "wait_eof"],
            "open, command, output",
            False,
        ),
        (
            "one in a token",
            [*REPLY, ["output", {"size": 1000, "cut": 500}], "wait_eof"],
            "open, command, wait",
            False,
        ),
        ("one in a flood", [*REPLY, flood], "open, command, output", None),
        ("one with a surplus", [*REPLY, "status", output], "open, run, wait", None),
        ("one that was closed", [*REPLY, "status", "close"], "open, run, wait", None),
        ("one that was reset", [*REPLY, "status", "reset"], "open, run, wait", None),
        ("one that is not read", ["handshake", "stop_reading"], "open", None),
        ("one of two closes", ["handshake", "wait_eof"], "open, close", True),
    ]
    for name, script, calls, quits in states:
        commands = 1 if "read" in script else 0
        yield (
            f"closing {name}",
            Variant([script], f"{calls}, close", None, commands=commands, quits=quits),
        )
    for name, steps in [
        ("output", output),
        ("a status", "status"),
        ("an error", ["error", {"code": 1, "text": "late"}]),
        ("noop", "noop"),
        ("garbage", ["raw", {"text": "junk"}]),
        ("a flood", flood),
    ]:
        script = ["handshake", "read", steps, "wait_eof"]
        yield f"QUIT answered by {name}", Variant([script], "open, close", None)
    one = ["handshake", {"protocol": 1}]
    yield (
        "closing protocol 1 between commands",
        Variant([[one, "wait_eof"]], "open, close", None, quits=False),
    )
    yield (
        "closing protocol 1 before a reply",
        Variant(
            [[one], [one, "read", "mic", "hang"]],
            "open, command, close",
            None,
            commands=1,
        ),
    )


def old_protocols() -> Iterator[tuple[str, Variant]]:
    """Yield what servers of protocol 1, or that become one, can do."""
    one = ["handshake", {"protocol": 1}]
    sent = [one, "read"]
    wrong: list[tuple[str, list[Any], str, int]] = [
        ("close", [one, "close"], EOF, 0),
        ("close after the command", [*sent, "close"], EOF, 1),
        ("reset after the command", [*sent, "reset"], EOF, 1),
        ("a bad MIC", [*sent, ["mic", {"kind": "bad"}]], "MIC", 1),
        (
            "a missing MIC",
            [*sent, ["mic", {"kind": "missing"}], "result1"],
            "invalid token format",
            1,
        ),
        ("two MICs", [*sent, "mic", "mic", "result1"], GSSAPI, 1),
        ("no result", [*sent, "mic"], EOF, 1),
        ("half a result", [*sent, "mic", ["result1", {"cut": 30}]], EOF, 1),
        ("bit flip", [*sent, "mic", ["result1", {"bitflip": True}]], GSSAPI, 1),
        ("length 2^32-1", [*sent, "mic", ["result1", {"length": 2**32 - 1}]], "too", 1),
        ("a protocol 2 status", [*sent, "mic", "status"], "unexpected token", 1),
    ]
    for name, steps, text, commands in wrong:
        yield (
            f"protocol 1, {name}",
            Variant(
                [[one], [*steps, *([] if text == EOF else ["hang"])]],
                "open, run",
                remctl.RemctlError,
                text,
                commands=commands,
                stage="reply",
            ),
        )
    silences: list[tuple[str, list[Any], int]] = [
        ("before the handshake", [["handshake", {"stop": ["hang", 0]}]], 0),
        ("in the handshake", [["handshake", {"stop": ["hang", 2]}]], 0),
        ("before the MIC", sent, 1),
        ("before the result", [*sent, "mic"], 1),
        ("in the result", [*sent, "mic", ["result1", {"cut": 30}]], 1),
    ]
    for name, steps, commands in silences:
        stage = "reply" if sent[0] in steps else "authenticate"
        variant = stalled(steps, "open, run", commands, stage)
        yield (
            f"protocol 1, silence {name}",
            variant._replace(script=[[one], *variant.script]),
        )
    yield (
        "protocol 1, status -1",
        Variant(
            [[one], [*sent, "mic", ["result1", {"status": -1}]]],
            "open, run",
            remctl.RemctlSimpleResult(None, None, 255),
            opened=True,
            commands=1,
        ),
    )
    good = [*REPLY, "status"]
    for name, handshake in [
        ("to protocol 1", one),
        ("by the answer's flags", ["handshake", {"flags": 0x02}]),
    ]:
        yield (
            f"a downgrade {name}",
            Variant(
                [good, [handshake, "hang"]],
                "open, run, open",
                remctl.RemctlError,
                "attack",
                commands=1,
                stage="authenticate",
            ),
        )


VARIANTS: dict[str, Variant] = {
    name: variant
    for part in (
        handshakes,
        replies,
        surpluses,
        noops,
        oddities,
        closes,
        old_protocols,
    )
    for name, variant in part()
}
