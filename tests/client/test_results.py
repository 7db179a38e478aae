# SPDX-License-Identifier: MIT
"""Results, tokens and exceptions as values, and what cannot be copied."""

from __future__ import annotations

import copy
import csv
import dataclasses
import inspect
import io
import json
import logging
import pickle
import sys
from typing import TYPE_CHECKING, Any, Callable

import pytest

import remctl
from remctl._results import Fields

if TYPE_CHECKING:
    from remctl.testing import Server

RESULT = remctl.RemctlSimpleResult(b"\xff\0", None, 7)

# Ways to make a copy.
COPIES: list[Callable[[Any], Any]] = [
    copy.copy,
    copy.deepcopy,
    *(
        lambda value, protocol=protocol: pickle.loads(pickle.dumps(value, protocol))
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    ),
]
copies = pytest.mark.parametrize(
    "duplicate",
    COPIES,
    ids=["copy", "deepcopy", *(f"pickle{n}" for n in range(len(COPIES) - 2))],
)


@copies
@pytest.mark.parametrize(
    "value",
    [
        RESULT,
        remctl.RemctlSimpleResult(None, b"", 0),
        remctl.RemctlOutput("output", b"\xff", remctl.Stream.STDERR),
        remctl.RemctlOutput("status", status=255),
        remctl.RemctlOutput("error", b"text", error=remctl.ErrorCode.ACCESS),
        remctl.RemctlOutput("error", b"text", error=4242),
        remctl.RemctlOutput("done"),
    ],
    ids=repr,
)
def test_results_and_tokens_can_be_copied(
    value: object, duplicate: Callable[[Any], Any]
) -> None:
    """S56: results and tokens pickle and copy, to equal ones of the same types."""
    result = duplicate(value)
    assert type(result) is type(value)
    assert result == value
    assert repr(result) == repr(value)


EXCEPTIONS = [
    (remctl.RemctlError("text ü\udcff"), {}),
    (remctl.RemctlError(""), {}),
    (remctl.RemctlError("text", "connect"), {"stage": "connect"}),
    (remctl.RemctlNotOpenedError("text"), {}),
    (remctl.RemctlProtocolError("text"), {"code": None}),
    (remctl.RemctlProtocolError("text", remctl.ErrorCode.ACCESS), {"code": 6}),
    (remctl.RemctlProtocolError("text", 4242), {"code": 4242}),
    (remctl.RemctlProtocolError("text", 6, "reply"), {"code": 6, "stage": "reply"}),
    (remctl.RemctlTimeoutError("text"), {"code": None}),
    (remctl.RemctlTimeoutError("text", 7), {"code": 7}),
    (
        remctl.RemctlTimeoutError("text", None, "resolve"),
        {"code": None, "stage": "resolve"},
    ),
    (remctl.RemctlStatusError(RESULT), {"result": RESULT, "stage": "reply"}),
]
exceptions = pytest.mark.parametrize(
    ("error", "attributes"),
    EXCEPTIONS,
    ids=[f"{type(error).__name__}-{n}" for n, (error, _) in enumerate(EXCEPTIONS)],
)


@copies
@exceptions
def test_exceptions_can_be_copied(
    error: remctl.RemctlError,
    attributes: dict[str, object],
    duplicate: Callable[[Any], Any],
) -> None:
    """S18: exceptions pickle and copy with all attributes, a caller's own too."""
    error.host = "added"  # type: ignore[attr-defined]  # by a caller
    try:
        result = duplicate(error)
    finally:
        del error.host  # type: ignore[attr-defined]
    assert type(result) is type(error)
    assert str(result) == str(error)
    assert result.args == error.args
    all_of_them = {"value": str(error), "stage": None, **attributes}
    assert vars(result) == {**all_of_them, "host": "added"}


@exceptions
def test_exceptions_attributes(
    error: remctl.RemctlError, attributes: dict[str, object]
) -> None:
    """S18: the text is in value and str(); the rest is as documented."""
    assert error.value == str(error)
    assert vars(error) == {"value": error.value, "stage": None, **attributes}
    if isinstance(error, remctl.RemctlStatusError):
        # Not the result, which may be long.
        assert repr(error) == f"RemctlStatusError({error.value!r})"
        assert error.args == (error.result,)
    else:
        assert error.args == (error.value, *attributes.values())
    if isinstance(error, OSError):
        assert (error.errno, error.strerror, error.filename) == (None, None, None)


@exceptions
def test_exceptions_are_made_of_their_args(
    error: remctl.RemctlError, attributes: dict[str, object]
) -> None:
    """S18: task queues keep the class and args: that makes an equal exception."""
    result = type(error)(*error.args)
    assert vars(result) == vars(error)
    assert vars(error) == {"value": str(error), "stage": None, **attributes}
    assert (str(result), repr(result)) == (str(error), repr(error))
    assert result.args == error.args
    if isinstance(result, OSError):
        assert (result.errno, result.strerror, result.filename) == (None, None, None)


def test_args_do_not_depend_on_how_an_exception_was_made() -> None:
    """By name or by position, and in a class that adds an argument."""

    class OfHost(remctl.RemctlTimeoutError):
        def __init__(self, host: str, value: str, code: int | None = None) -> None:
            super().__init__(f"{host}: {value}", code)

    assert remctl.RemctlError("x", stage="send").args == ("x", "send")
    assert remctl.RemctlProtocolError("x", code=5).args == ("x", 5)
    assert remctl.RemctlProtocolError("x", stage="send").args == ("x", None, "send")
    assert remctl.RemctlTimeoutError(value="x").args == ("x", None)
    assert remctl.RemctlStatusError(result=RESULT).args == (RESULT,)
    assert OfHost("a", "x", 5).args == ("a: x", 5)


@pytest.mark.parametrize(
    "error",
    [
        remctl.RemctlError,
        remctl.RemctlNotOpenedError,
        remctl.RemctlProtocolError,
        remctl.RemctlTimeoutError,
    ],
)
def test_exceptions_that_a_caller_makes(error: type[remctl.RemctlError]) -> None:
    """As pyremctl's: of the class alone, for a fake to raise, or of another error."""
    with pytest.raises(error) as caught:
        raise error
    assert caught.value.value == str(caught.value) == ""
    assert str(error(KeyError("x"))) == "'x'"  # type: ignore[arg-type]


def test_hierarchy_of_the_exceptions() -> None:
    """S47: what derives from what; wrong arguments are no RemctlError."""
    parents = {
        remctl.RemctlError: (Exception,),
        remctl.RemctlNotOpenedError: (remctl.RemctlError,),
        remctl.RemctlProtocolError: (remctl.RemctlError,),
        remctl.RemctlStatusError: (remctl.RemctlError,),
        remctl.RemctlTimeoutError: (remctl.RemctlProtocolError, TimeoutError),
    }
    for error, expected in parents.items():
        assert error.__bases__ == expected
    assert not issubclass(remctl.RemctlError, (ValueError, TypeError, OSError))


def test_timeout_is_a_timeout_error(server: Server) -> None:
    """S47: a real time-out is caught as TimeoutError, and pickles."""
    with remctl.Remctl(server.host, server.port) as client:
        client.set_timeout(0.1)
        with pytest.raises(TimeoutError) as caught:
            client.run(["test", "sleep", "5"])
        error = pickle.loads(pickle.dumps(caught.value))
        assert str(error) == client.error()
        assert str(error).startswith("error receiving token: timed out (")
        assert (error.code, error.stage) == (None, "reply")


def test_servers_error_can_be_pickled(server: Server) -> None:
    """S18: an exception that was raised, with its code as an ErrorCode."""
    with pytest.raises(remctl.RemctlProtocolError) as caught:
        remctl.remctl(server.host, server.port, None, ["no", "such"])
    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.value, str(error)) == ("Unknown command", "Unknown command")
    assert error.code is remctl.ErrorCode.UNKNOWN_COMMAND
    assert error.stage == "reply"


def test_check_returns_the_result_of_a_success(server: Server) -> None:
    """S55: check() gives the result itself when the status is 0."""
    result = remctl.remctl(server.host, server.port, None, ["test", "hello"])
    assert result.check() is result


@pytest.mark.parametrize("status", [1, 255, 256, -1])
def test_check_raises_for_any_other_status(status: int) -> None:
    """S55: check() raises RemctlStatusError, which has the result."""
    result = remctl.RemctlSimpleResult(b"out", None, status)
    with pytest.raises(remctl.RemctlStatusError) as caught:
        result.check()
    assert caught.value.result is result
    assert str(caught.value) == f"command exited with status {status}"


@pytest.mark.parametrize(
    ("stderr", "shown"),
    [
        (b"no space left\nsee the log\n", ": no space left"),
        (b"\n  \r\n no space left\r\n", ": no space left"),
        (b"\x1b[31mred\x07 \xff\x80", r": \x1b[31mred\x07 \xff\x80"),
        ("\u202eüber\u2028".encode(), r": \u202eüber\u2028"),
        (b"x" * 1001, f": {'x' * 1000}..."),
        (b"", ""),
        (b"\n\n", ""),
    ],
    ids=["line", "empty lines", "control", "unicode", "long", "none", "no line"],
)
def test_a_status_error_shows_the_first_line_of_standard_error(
    stderr: bytes, shown: str
) -> None:
    """S55: the first that is not empty, and none of its control characters."""
    result = remctl.RemctlSimpleResult(None, stderr, 3)
    with pytest.raises(remctl.RemctlStatusError) as caught:
        result.check()
    assert str(caught.value) == f"command exited with status 3{shown}"


@pytest.mark.parametrize(
    ("stdout", "arguments", "text"),
    [
        (None, (), ""),
        (b"", (), ""),
        ("Zo\u00eb\r\n\0".encode(), (), "Zo\u00eb\r\n\0"),
        (b"Zo\xeb", ("latin-1",), "Zo\u00eb"),
        (b"a\xff", ("utf-8", "surrogateescape"), "a\udcff"),
    ],
)
def test_text(stdout: bytes | None, arguments: tuple[str, ...], text: str) -> None:
    """S81: standard output as text; no newline is changed, and none is missing."""
    result = remctl.RemctlSimpleResult(stdout, b"stderr", 3)
    assert result.text(*arguments) == text
    assert result.text(**dict(zip(("encoding", "errors"), arguments))) == text
    assert result.stdout is stdout


def test_what_is_not_text() -> None:
    """S81: an error by default, as of bytes.decode()."""
    result = remctl.RemctlSimpleResult(b"a\xff", None, 0)
    with pytest.raises(UnicodeDecodeError):
        result.text()
    with pytest.raises(LookupError):
        result.text("utf-88")


def test_json() -> None:
    """S81: the value, in whichever encoding JSON allows; else a ValueError."""
    value = {"name": "Zo\u00eb", "disks": [1, 2.5, None]}
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32-le"):
        text = json.dumps(value, ensure_ascii=False)
        result = remctl.RemctlSimpleResult(text.encode(encoding), b"warning", 1)
        assert result.json() == value
    for wrong in (None, b"", b"{", b"\xff", b"{}{}"):
        with pytest.raises(ValueError, match=r"."):
            remctl.RemctlSimpleResult(wrong, b"{}", 0).json()


def test_results_compare_and_show_their_parts() -> None:
    """S14: a result has three attributes, by name and by position."""
    result = remctl.RemctlSimpleResult(stdout=b"\xff\0", stderr=None, status=7)
    assert result == RESULT
    assert result != remctl.RemctlSimpleResult(b"\xff\0", None, 0)
    assert (result.stdout, result.stderr, result.status) == (b"\xff\0", None, 7)
    shown = "RemctlSimpleResult(stdout=b'\\xff\\x00', stderr=None, status=7)"
    assert repr(result) == shown


@dataclasses.dataclass
class Model:
    """What a result is like; being one would take long to import."""

    stdout: bytes | None = None
    stderr: bytes | None = None
    status: int = None  # type: ignore[assignment]


# Each is something that libraries do with dataclasses.
USES: list[Callable[[Any], Any]] = [
    dataclasses.is_dataclass,
    lambda of: [
        (each.name, each.type, each.default) for each in dataclasses.fields(of)
    ],
    lambda of: dataclasses.asdict(of(b"a", None, 3)),
    lambda of: dataclasses.astuple(of(b"a", None, 3)),
    lambda of: vars(dataclasses.replace(of(b"a", None, 3), status=0)),
    lambda of: (
        dataclasses.fields(dataclasses.dataclass(type("Sub", (of,), {})))[1].name
    ),
    lambda of: inspect.signature(of).parameters,
    lambda of: repr(of(b"a", status=3)).partition("(")[2],
    lambda of: (of.stdout, of.status, of.__hash__),
    lambda of: getattr(of, "__match_args__", ("stdout", "stderr", "status")),  # 3.9
    lambda of: of() == of(None, None, None),
    lambda of: of(b"") == of(None) or of() == type("Sub", (of,), {})() or of() == 3,
    lambda of: vars(of().__replace__(stdout=b"b")) if sys.version_info > (3, 13) else 0,
    lambda of: type("Sub", (of,), {})(b"x").__repr__()[:3],
]


@pytest.mark.parametrize("use", USES)
def test_a_result_is_a_dataclass(
    use: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """S14: for whoever asks, the first time and later."""
    lazy = Fields()  # as it is before anybody has asked
    monkeypatch.setattr(remctl.RemctlSimpleResult, "__dataclass_fields__", lazy)
    expected = use(Model)
    assert [use(remctl.RemctlSimpleResult) for _ in range(2)] == [expected] * 2


def test_a_long_output_is_cut_in_repr() -> None:
    """S14: a mistake in a REPL, or a log, is not to show megabytes."""
    result = remctl.RemctlSimpleResult(b"a" * 4000, b"b" * 3_000_000, 0)
    stdout, stderr = "a" * 4000, "b" * 4000
    assert repr(result) == (
        f"RemctlSimpleResult(stdout=b'{stdout}', "
        f"stderr=<3000000 bytes, b'{stderr}'...>, status=0)"
    )


@pytest.mark.parametrize(
    ("stdout", "stderr", "text"),
    [
        (
            b"disk: ok\nfan: \xff\n",
            b"late",
            "stdout:\n  disk: ok\n  fan: \\xff\nstderr:\n  late",
        ),
        (None, b"", ""),
        (
            b"a\tb\n\n\x1b[31mred\r\n",
            None,
            "stdout:\n  a       b\n  \n  \\x1b[31mred\\r",
        ),
        (b"x\n" * 2500, None, "stdout:" + "\n  x" * 2000 + "\n  ... (5000 bytes)"),
    ],
)
def test_in_a_notebook(stdout: bytes | None, stderr: bytes | None, text: str) -> None:
    """IPython calls this: lines as they are, but for control characters."""
    pieces: list[str] = []
    printer = type("Printer", (), {"text": staticmethod(pieces.append)})
    result = remctl.RemctlSimpleResult(stdout, stderr, 3)
    result._repr_pretty_(printer, False)
    assert "".join(pieces) == f"status 3\n{text}".rstrip("\n")


def test_results_without_arguments() -> None:
    """As pyremctl's class, which has none: three attributes to be set."""
    result = remctl.RemctlSimpleResult()
    assert vars(result) == {"stdout": None, "stderr": None, "status": None}
    result.stdout, result.status = b"\xff\0", 7
    assert result == RESULT


def test_tokens_are_of_their_enums(server: Server) -> None:
    """S34, S36, S41: streams and codes equal the ints, and have names."""
    with remctl.Remctl(server.host, server.port) as client:
        client.command(["test", "streams", "x"])
        streams = {token.output: token.stream for token in client}
        assert streams.pop(b"x") is remctl.Stream.STDOUT
        assert streams[b"to standard error"] is remctl.Stream.STDERR
        client.command(["no", "such"])
        assert client.output().error is remctl.ErrorCode.UNKNOWN_COMMAND


def test_enums_are_the_protocols_numbers() -> None:
    """S34, S36, S41: the numbers of the protocol specification, as ints."""
    assert {stream.name: stream.value for stream in remctl.Stream} == {
        "STDOUT": 1,
        "STDERR": 2,
    }
    assert {code.name: code.value for code in remctl.ErrorCode} == {
        "INTERNAL": 1,
        "BAD_TOKEN": 2,
        "UNKNOWN_MESSAGE": 3,
        "BAD_COMMAND": 4,
        "UNKNOWN_COMMAND": 5,
        "ACCESS": 6,
        "TOOMANY_ARGS": 7,
        "TOOMUCH_DATA": 8,
        "UNEXPECTED_MESSAGE": 9,
        "NO_HELP": 10,
    }
    assert all(
        isinstance(number, int) and number == number.value
        for enum in (remctl.Stream, remctl.ErrorCode)
        for number in enum
    )


@pytest.mark.parametrize("number", [*remctl.Stream, *remctl.ErrorCode])
def test_enums_are_written_as_numbers(number: int) -> None:
    """S41: other programs get the number on all Pythons; repr() has the name."""
    digits = str(int(number))
    name = type(number).__name__
    assert [str(number), format(number), f"{number}", f"{number!s}"] == [digits] * 4
    assert (
        f"{number:03}|{number:x}|{number:>4}"
        == f"{int(number):03}|{int(number):x}|{digits:>4}"
    )
    file = io.StringIO()
    csv.writer(file).writerow([number, "x"])
    print(number, file=file)
    assert file.getvalue() == f"{digits},x\r\n{digits}\n"
    assert json.dumps({"code": number}) == f'{{"code": {digits}}}'
    record = logging.LogRecord("x", 10, "x", 1, "%s %d", (number, number), None)
    assert record.getMessage() == f"{digits} {digits}"
    assert repr(number) == f"<{name}.{number.name}: {digits}>"  # type: ignore[attr-defined]


@copies
def test_connections_cannot_be_copied(
    client: remctl.Remctl, duplicate: Callable[[Any], Any]
) -> None:
    """S56: Remctl refuses to be pickled or copied, and is none the worse."""
    for one in (client, remctl.Remctl()):
        with pytest.raises(TypeError, match=r"^cannot pickle 'Remctl' object$"):
            duplicate(one)
    assert client.run(["test", "hello"]).status == 0
