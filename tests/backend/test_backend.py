# SPDX-License-Identifier: MIT
"""remctl.backend: declaring commands, checking arguments, help, statuses, errors."""

from __future__ import annotations

import argparse
import functools
import pickle
import re
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable, Optional

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support import HANG, run_python

from remctl.backend import Backend, Caller, CommandError
from remctl.backend._errors import ProgramError, RefusedError

HELP_TWIN = Path(__file__).with_name("backend_help.pl")

Run = Callable[..., "tuple[int, str, str]"]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command: run(backend, arguments...) -> status, stdout, stderr."""

    def run(backend: Backend, *arguments: str | bytes) -> tuple[int, str, str]:
        status = backend.run(arguments)
        return (status, *capfd.readouterr())

    return run


def declared(function: Callable[..., Any], **options: Any) -> Backend:
    """Return a backend whose only command, "f", is ``function``."""
    backend = Backend()
    assert backend.command("f", **options)(function) is function
    return backend


def refused(run: Run, backend: Backend, *arguments: str | bytes) -> str:
    """Return why a command was refused."""
    status, stdout, stderr = run(backend, *arguments)
    assert (status, stdout, stderr[-1:]) == (255, "", "\n")
    return stderr[:-1]


def test_arguments_by_annotation(run: Run) -> None:
    """Converted to what the signature says, with its defaults; unannotated is str."""

    def f(a, b: int, c: Optional[bytes] = None, *d: int | None) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001, UP045
        print(repr((a, b, c, d)))

    backend = declared(f)
    assert run(backend, "f", "é", "-07")[1] == "('é', -7, None, ())\n"
    assert run(backend, "f", "", "+1", b"\xff\n", "2", "3")[1] == (
        "('', 1, b'\\xff\\n', (2, 3))\n"
    )


def test_evaluated_annotations(run: Run) -> None:
    """Those that are objects, not text, as without the __future__ import."""

    def f(a: Any, b: Any) -> None:
        print(a, b)

    f.__annotations__.update(a=Optional[int], b=bytes)
    assert run(declared(f), "f", "1", "b") == (0, "1 b'b'\n", "")


def test_wrapped_function(run: Run) -> None:
    """The signature is that of the function that functools.wraps names."""

    def f(a: int) -> None:
        print(a + 1)

    @functools.wraps(f)
    def wrapper(*arguments: Any) -> None:
        f(*arguments)

    backend = declared(wrapper)
    assert run(backend, "f", "1") == (0, "2\n", "")
    assert refused(run, backend, "f") == "f: insufficient arguments"


@pytest.mark.parametrize(
    "data",
    [
        b"caf\xe9",
        b"a\nb",
        b"\x1b[2J",
        b"\xc2\x9b",
        b"\x7f",
        b"\xe2\x80\xae",
        b"\xed\xa0\x80",
    ],
)
def test_str_is_printable_text(run: Run, data: bytes) -> None:
    """What does not print is refused, and not shown either."""
    backend = declared(lambda a, b: None)
    assert refused(run, backend, "f", "a", data) == "f: invalid data in argument #2"
    assert run(declared(bytes_only), "f", data)[0] == 0


def bytes_only(a: bytes) -> None:
    """Take anything."""


@pytest.mark.parametrize("text", ["", "-", "1.0", "0x1", "1_0", " 1", "9" * 101, "--1"])
def test_int_is_a_decimal_number(run: Run, text: str) -> None:
    """Nothing else that int() takes."""

    def f(a: int) -> None:
        pass

    assert refused(run, declared(f), "f", text) == f"f: invalid argument: {text}"
    assert refused(run, declared(f), "f", "\u0661") == "f: invalid data in argument #1"


def test_counts(run: Run) -> None:
    """As the signature has them, or narrower, with Net::Remctl::Backend's messages."""
    few, many = "f: insufficient arguments", "f: too many arguments"
    backend = declared(lambda a, b="": None)
    assert refused(run, backend, "f") == few
    assert refused(run, backend, "f", "a", "b", "c") == many
    assert run(backend, "f", "a") == run(backend, "f", "a", "b") == (0, "", "")
    backend = declared(lambda *a: None, args_min=1, args_max=2)
    assert refused(run, backend, "f") == few
    assert refused(run, backend, "f", "a", "b", "c") == many
    assert run(backend, "f", "a") == run(backend, "f", "a", "b") == (0, "", "")
    assert run(declared(lambda *a: None), "f", *map(str, range(1000)))[0] == 0


def test_patterns(run: Run) -> None:
    """They match as a whole, every argument of *args, before int() sees them."""

    def f(a: str, b: int = 0, *c: bytes) -> None:
        pass

    patterns = {"a": "[a-z]+", "b": re.compile("[0-9]"), "c": b"[^x]*"}
    backend = declared(f, args_match=patterns)
    assert run(backend, "f", "a", "1", "b", b"\n\xff") == (0, "", "")
    assert refused(run, backend, "f", "a1") == "f: invalid argument: a1"
    assert refused(run, backend, "f", "a\n") == "f: invalid data in argument #1"
    assert refused(run, backend, "f", "é") == "f: invalid data in argument #1"
    assert refused(run, backend, "f", "") == "f: invalid argument: "
    assert refused(run, backend, "f", "a", "10") == "f: invalid argument: 10"
    assert refused(run, backend, "f", "a", "1", "", "x") == "f: invalid argument: x"
    bad = refused(run, backend, "f", "a", "1", "", b"x\0")
    assert bad == "f: invalid data in argument #4"


WRONG: list[tuple[type[Exception], str, Callable[..., Any], dict[str, Any]]] = [
    (TypeError, "must be a function", print, {}),
    (TypeError, "must be a function", functools.partial(print), {}),
    (TypeError, "no options for keyword-only .*'a'", lambda *, a: None, {}),
    (ValueError, "names no parameter: 'b'", lambda a: None, {"args_match": {"b": ""}}),
    (TypeError, "args_match.'a'. must be str", lambda a: 0, {"args_match": {"a": b""}}),
    (TypeError, "must be bytes", bytes_only, {"args_match": {"a": re.compile("")}}),
    (ValueError, "stdin names no", lambda a: None, {"stdin": "b"}),
    (ValueError, "stdin names no", lambda *a: None, {"stdin": "a"}),
    (TypeError, "and must be bytes", lambda a: None, {"stdin": "a"}),
    (ValueError, "do not fit", lambda a: None, {"args_min": 0}),
    (ValueError, "do not fit", lambda a: None, {"args_max": 2}),
    (ValueError, "do not fit", lambda: None, {"args_max": 1}),
    (ValueError, "do not fit", lambda *a: None, {"args_min": 2, "args_max": 1}),
    (ValueError, "printable, and have no space", lambda: None, {"name": "a b"}),
    (ValueError, "printable, and have no space", lambda: None, {"name": "a\n"}),
    (ValueError, "taken: 'taken'", lambda: None, {"name": "taken"}),
]


@pytest.mark.parametrize(("kind", "message", "function", "options"), WRONG)
def test_wrong_declarations(
    kind: type[Exception],
    message: str,
    function: Callable[..., Any],
    options: dict[str, Any],
) -> None:
    """They are errors when the program starts, whatever command it is to run."""
    backend = Backend()
    backend.command("taken")(lambda: None)
    with pytest.raises(kind, match=message):
        backend.command(**{"name": "f", **options})(function)


@pytest.mark.parametrize(
    "annotation", ["float", "list[str]", "str | int", "None", list, Optional[float]]
)
def test_wrong_annotations(annotation: Any) -> None:
    """Types are few."""
    with pytest.raises(TypeError, match="a must be str, int or bytes, not "):
        declared(annotated(annotation))


def test_unknown_annotation() -> None:
    """A name that only type checkers import is not one."""
    with pytest.raises(TypeError, match=r"^a: Paths . None: name 'Paths' is not "):
        declared(annotated("Paths | None"))


def annotated(annotation: Any) -> Callable[..., Any]:
    """Return a function with a parameter of this type."""

    def f(a: Any) -> None:
        pass

    f.__annotations__["a"] = annotation
    return f


def test_wrong_stdin_default() -> None:
    """Standard input is always there, if empty."""

    def f(a: bytes = b"") -> None:
        pass

    with pytest.raises(TypeError, match="has a default"):
        declared(f, stdin="a")


def test_wrong_groups() -> None:
    """They need a name of their own."""
    backend = Backend()
    backend.group("a")
    for name in ("", "a", "b\n", "b c"):
        with pytest.raises(ValueError, match="name"):
            backend.group(name)


def test_nested_commands(run: Run) -> None:
    """Groups in groups; the name "" is for the group alone."""
    backend = Backend(command="base")
    outer = backend.group("outer")
    inner = outer.group("inner")
    outer.command("")(lambda *rest: print("''", *rest))
    outer.command("a")(lambda *rest: print("'a'", *rest))
    inner.command("b")(lambda *rest: print("'b'", *rest))
    assert run(backend, "outer") == (0, "''\n", "")
    assert run(backend, "outer", "a", "inner") == (0, "'a' inner\n", "")
    assert run(backend, "outer", "inner", "b", "c") == (0, "'b' c\n", "")
    unknown = {
        (): "",
        ("",): "",
        ("other", "a"): "other",
        ("outer", ""): "outer ",
        ("outer", "inner"): "outer inner",
        ("outer", "inner", "x", "y"): "outer inner x",
        ("a\n\x1b\udcff",): r"a\n\x1b\udcff",
    }
    for words, name in unknown.items():
        assert refused(run, backend, *words) == f"Unknown command {name}"


def test_no_subcommand(run: Run) -> None:
    """The program itself may be a command."""
    backend = Backend(command="base")

    @backend.command("")
    def base() -> int:
        raise CommandError("failed", 3)

    assert run(backend) == (3, "", "base: failed\n")
    backend = Backend()
    backend.command("")(base)
    assert run(backend) == (3, "", "failed\n")


def test_own_help_command(run: Run) -> None:
    """It takes the place of the built-in one, as in Net::Remctl::Backend."""
    backend = Backend()
    backend.command("help")(lambda *about: print("mine", *about))
    assert run(backend, "help", "f") == (0, "mine f\n", "")
    assert run(backend, "summary") == (0, "help [<about> ...]\n", "")


@pytest.mark.parametrize(("result", "status"), [(None, 0), (0, 0), (1, 1), (255, 255)])
def test_statuses(run: Run, result: object, status: int) -> None:
    """What the command returns."""
    assert run(declared(lambda: result), "f") == (status, "", "")


@pytest.mark.parametrize("result", [True, False, -1, 256, "1", 1.0])
def test_wrong_statuses(run: Run, result: object) -> None:
    """What exit() would turn into another status, or into success."""
    assert str(result) in refused(run, declared(lambda: result), "f")


def noted(error: Exception) -> Exception:
    """Return ``error`` with a note, as from Python 3.11 on."""
    vars(error)["__notes__"] = ["a note"]
    return error


class BadError(Exception):
    """It fails to say what it is."""

    def __str__(self) -> str:
        raise ValueError


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (CommandError("no such user"), 1, "no such user"),
        (CommandError("a\nb\x1b", 7), 7, r"a\nb\x1b"),
        (KeyError("x"), 255, "KeyError: 'x'"),
        (OSError(2, "No such file", "a\nb"), 255, None),
        (ValueError(), 255, "ValueError"),
        (ValueError("a\nb\udcff"), 255, r"ValueError: a\nb\udcff"),
        (noted(ValueError("x")), 255, "ValueError: x"),
        (SyntaxError("x", ("f.py", 1, 1, "text")), 255, "SyntaxError: x"),
        (CommandError(KeyError("x")), 1, "'x'"),  # type: ignore[arg-type]
        (BadError(), 255, None),
    ],
)
def test_exceptions(run: Run, error: Exception, status: int, line: str | None) -> None:
    """One line on standard error, after what was printed, and a status."""

    def f() -> None:
        print("so far")
        raise error

    backend = Backend(command="base")
    backend.command()(f)
    result = run(backend, "f")
    assert result[:2] == (status, "so far\n")
    assert re.fullmatch("base f: [^\n]+\n", result[2])
    assert line is None or result[2] == f"base f: {line}\n"


@pytest.mark.parametrize("status", [0, 256, -1])
def test_wrong_statuses_of_errors(run: Run, status: int) -> None:
    """No failure becomes a success."""

    def f() -> None:
        raise CommandError("failed", status)

    assert str(status) in refused(run, declared(f), "f")


@pytest.mark.parametrize(
    "error",
    [
        CommandError("text"),
        CommandError(message="text", status=7),
        RefusedError("text"),
        ProgramError(message="text"),
    ],
    ids=repr,
)
def test_errors_are_made_of_their_args(error: CommandError) -> None:
    """Serialisers keep the class and args: that makes an equal one."""
    for result in (type(error)(*error.args), pickle.loads(pickle.dumps(error))):
        assert type(result) is type(error)
        assert vars(result) == vars(error)
        assert (str(result), result.args) == (str(error), error.args)


def test_exit_is_not_caught(run: Run) -> None:
    """sys.exit() in a command is what it is everywhere."""
    with pytest.raises(SystemExit, match="3"):
        run(declared(lambda: sys.exit(3)), "f")


def options(parser: argparse.ArgumentParser) -> None:
    """Add a flag, a number and a text."""
    parser.add_argument("-v", "--verbose", action="count", default=0)
    parser.add_argument("-n", "--number", type=int)
    parser.add_argument("--text", default="")


def shown(*arguments: bytes, verbose: int, number: int | None, text: str) -> None:
    """Show the arguments."""
    print(verbose, number, text, arguments)


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        ([], "0 None  ()"),
        (["a"], "0 None  (b'a',)"),
        (["-vvn5", "--text=é", "a", "-v"], "2 5 é (b'a', b'-v')"),
        (["-n", "-5", "a"], "0 -5  (b'a',)"),
        (["-v", "--", "-v", "--", "a"], "1 None  (b'-v', b'--', b'a')"),
        (["--", "--"], "0 None  (b'--',)"),
        (["a", "--", "b"], "0 None  (b'a', b'--', b'b')"),
        (["-", "-v"], "0 None  (b'-', b'-v')"),
        (["", "-v"], "0 None  (b'', b'-v')"),
        (["-v", b"\xff\n", b"\xff"], r"1 None  (b'\xff\n', b'\xff')"),
    ],
)
def test_options(run: Run, arguments: list[str | bytes], output: str) -> None:
    """They end at the first argument, or at "--", which goes."""
    backend = declared(shown, options=options)
    assert run(backend, "f", *arguments) == (0, f"{output}\n", "")


WRONG_OPTIONS: list[tuple[str, Callable[..., Any]]] = [
    ("no keyword-only .* options: .'number', 'text'.", lambda *, verbose: None),
    ("no keyword-only .* options: .'text'.", lambda text, *, verbose, number: None),
    ("no options for .*: .'more'.", lambda *, verbose, number, text, more: None),
]


@pytest.mark.parametrize(("message", "function"), WRONG_OPTIONS)
def test_options_that_no_parameter_takes(
    message: str, function: Callable[..., Any]
) -> None:
    """And parameters that no option is for: wrong, whatever command is to run."""
    with pytest.raises(TypeError, match=message):
        declared(function, options=options)


def test_option_in_the_place_of_standard_input() -> None:
    """One of them would be lost."""

    def f(*, text: bytes, verbose: int, number: int) -> None:
        pass

    with pytest.raises(TypeError, match=r"no keyword-only .* options: .'text'."):
        declared(f, options=options, stdin="text")


def test_options_that_are_not_always_there(run: Run) -> None:
    """Required ones; some that have a value only when given; any at all."""

    def some(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--need", required=True)
        parser.add_argument("--may", default=argparse.SUPPRESS)

    functions: list[Callable[..., Any]] = [
        lambda *, need, may="not": print(need, may),
        lambda **values: print(*values.values(), *["not"] * (2 - len(values))),
    ]
    for function in functions:
        backend = declared(function, options=some)
        assert run(backend, "f", "--need=a") == (0, "a not\n", "")
        assert run(backend, "f", "--need=a", "--may=b") == (0, "a b\n", "")
        error = "f: the following arguments are required: --need"
        assert refused(run, backend, "f") == error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--other"], "f: unrecognized arguments: --other"),
        (["--other\n\x1b"], r"f: unrecognized arguments: --other\n\x1b"),
        (["--verb"], "f: unrecognized arguments: --verb"),
        (["-h"], "f: unrecognized arguments: -h"),
        (["-n"], "f: argument -n/--number: expected one argument"),
        (["-n", "x"], "f: argument -n/--number: invalid int value: 'x'"),
        (["-v", "--text", b"\xff", "a"], "f: invalid data in argument #3"),
        (["--text=a\nb"], "f: invalid data in argument #1"),
        (["a", "b"], "f: too many arguments"),
    ],
)
def test_wrong_options(run: Run, arguments: list[str | bytes], message: str) -> None:
    """argparse's messages, one line each; nothing that does not print gets in."""
    backend = declared(shown, options=options, args_max=1)
    assert refused(run, backend, "f", *arguments) == message


def test_caller() -> None:
    """All that remctld puts into the environment, typed."""
    environ = {
        "REMOTE_USER": "user@EXAMPLE.ORG",
        "REMOTE_ADDR": "::1",
        "REMCTL_COMMAND": "registry",
    }
    caller = Caller("user@EXAMPLE.ORG", "::1", "registry")
    assert Caller.from_environ(environ) == caller
    assert (caller.host, caller.expires) == (None, None)
    full = {**environ, "REMOTE_HOST": "localhost", "REMOTE_EXPIRES": "1700000000"}
    expires = datetime(2023, 11, 14, 22, 13, 20, tzinfo=timezone.utc)
    assert Caller.from_environ(full) == Caller(
        "user@EXAMPLE.ORG", "::1", "registry", "localhost", expires
    )
    unknown = {**environ, "REMOTE_EXPIRES": "0"}  # remctl-shell does not know
    assert Caller.from_environ(unknown) == caller
    for name in environ:
        rest = {key: value for key, value in environ.items() if key != name}
        with pytest.raises(LookupError, match=f"^{name} is not set"):
            Caller.from_environ(rest)
    with pytest.raises(AttributeError, match="'user'"):
        caller.user = "root"
    assert caller != Caller.from_environ(full) != environ
    assert len({caller, pickle.loads(pickle.dumps(caller))}) == 1
    assert eval(repr(caller)) == caller


words = st.text(alphabet="abc-<>[]", min_size=1, max_size=90)
texts = st.lists(words, max_size=12).map(" ".join)
names = st.text(alphabet="ab", min_size=1, max_size=5)
commands = st.dictionaries(
    st.lists(names, min_size=1, max_size=2).map(" ".join),
    st.tuples(texts, texts),
    max_size=5,
)


@given(commands, st.sampled_from(["", "base", "b" * 45]), st.sampled_from(["", "B:"]))
@example({"a": ("x" * 44, "s"), "a b": ("", "t " * 39 + "t"), "c": ("", "")}, "", "")
@example({"a": ("x" * 45, "s"), "b": ("y" * 46, "s")}, "", "B:\n")
@example({"a": ("x" * 46, "s")}, "", "")
@example({"a": ("x" * 47, "s")}, "", "")
@example({"a": ("", f"x {'y' * 200} z")}, "", "")
def test_help_is_laid_out_as_perls(
    table: dict[str, tuple[str, str]], command: str, banner: str
) -> None:
    """Net::Remctl::Backend's own help() for the same commands."""
    backend = Backend(command=command or None, help_banner=banner or None)
    groups: dict[str, Any] = {}
    for name in sorted(table):
        head, _, tail = name.partition(" ")
        if tail and head not in groups:
            groups[head] = backend.group(head)
    lines = []
    for name, (syntax, summary) in sorted(table.items()):
        head, _, tail = name.partition(" ")
        group = groups.get(head, backend)
        group.command(tail if head in groups else head, syntax=syntax, summary=summary)(
            lambda: None
        )
        lines.append(f"{name}\t{syntax}\t{summary}\n")
    expected = subprocess.run(
        ["perl", str(HELP_TWIN), command, banner],
        input="".join(lines),
        capture_output=True,
        text=True,
        check=True,
    )
    assert expected.stderr == ""
    assert backend.help() == expected.stdout


def test_described_syntax_and_summary(run: Run) -> None:
    """From the signature and the docstring, when nothing else is said."""

    def f(
        full_name: str, c: int = 0, *d: str, text: str, number: int, verbose: int
    ) -> None:
        """Do
        one-thing.

        Or two.
        """

    backend = declared(f, options=options)
    line = "f [<options>] <full-name> [<c>] [<d> ...]  Do one-thing.\n"
    assert run(backend, "help") == run(backend, "summary", "f") == (0, line, "")
    status, stdout, stderr = run(backend, "help", "f", "x")
    assert stdout.startswith(f"{line}\nOr two.\n\n")
    assert re.search("^  --text TEXT$", stdout, re.MULTILINE)
    assert (status, stderr) == (0, "")


def test_help_about_commands(run: Run) -> None:
    """A command's line, a group's lines; hidden and unknown ones have none."""
    backend = Backend(command="base", help_banner="Help:")
    group = backend.group("g")
    for name in ("", "a", "b"):
        group.command(name, summary=name.upper())(lambda: None)
    backend.command("hidden", hidden=True)(lambda: None)
    backend.command("ga")(lambda: None)
    lines = "base g\nbase g a  A\nbase g b  B\n"
    assert run(backend, "help", "g") == (0, lines, "")
    assert run(backend, "help", "g", "b") == (0, "base g b  B\n", "")
    assert run(backend, "summary")[1].splitlines()[-1] == "  base ga"
    for name in ("hidden", "x", "", "g x"):
        error = refused(run, backend, "help", *name.split(" "))
        assert error == f"Unknown command {name}"


PROGRAM = r"""
import sys, syslog
from remctl.backend import Backend
backend = Backend(command="base", syslog=True)

@backend.command(stdin="data", args_match={"data": b"[^!]*"})
def size(*names: str, data: bytes) -> None:
    print(*names, len(data), data[:3])

@backend.command(stdin="data")
def last(name: str, number: int = 0, *, data: bytes) -> None:
    print(name, number, data)

@backend.command(stdin="data")
def first(data: bytes, name: str, number: int = 0) -> None:
    print(data, name, number)

@backend.command()
def echo(text: str) -> None:
    print(text)
    print(text, file=sys.stderr)

@backend.command()
def much() -> None:
    print("x" * 1_000_000)  # more than a buffer, which is 128 KiB from 3.14 on

@backend.command()
def closed() -> None:
    sys.stdout.close()

@backend.command()
def fail() -> None:
    raise ValueError("a\nb\x1b\u00e9\udcff")

syslog.openlog("ident", syslog.LOG_PERROR)
sys.exit(backend.run())
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A backend as a program of its own."""
    path = tmp_path_factory.mktemp("program") / "program.py"
    path.write_text(PROGRAM, encoding="utf-8")
    return [sys.executable, str(path)]


def started(
    program: list[str], *arguments: str | bytes, **options: Any
) -> subprocess.CompletedProcess[bytes]:
    """Run ``program`` as remctld does, with pipes."""
    return subprocess.run(
        [*program, *arguments],
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
        timeout=HANG,
        check=False,
    )


def test_standard_input(program: list[str]) -> None:
    """All of it is an argument, in its place, which counts and is checked."""
    everything = bytes(range(256)).replace(b"!", b"") * 1000

    def run(*arguments: str, data: bytes = b"") -> tuple[int, bytes, bytes]:
        result = started(program, *arguments, input=data)
        return result.returncode, result.stdout, result.stderr

    assert run("size", data=everything) == (0, b"255000 b'\\x00\\x01\\x02'\n", b"")
    assert run("size", "a", "b") == (0, b"a b 0 b''\n", b"")
    bad = b"base size: invalid data in argument #3\n"
    assert run("size", "a", "b", data=b"\0!") == (255, b"", bad)
    assert run("first", "a", data=b"x") == (0, b"b'x' a 0\n", b"")
    assert run("first", "a", "1", data=b"x") == (0, b"b'x' a 1\n", b"")
    assert run("last", "a", data=b"x\n") == (0, b"a 0 b'x\\n'\n", b"")
    assert run("last", "a", "1", data=b"x\n") == (0, b"a 1 b'x\\n'\n", b"")
    assert run("last")[2] == b"base last: insufficient arguments\n"
    bad = b"base first: invalid argument: b\n"
    assert run("first", "a", "b", data=b"x") == (255, b"", bad)
    assert run("first", data=b"x")[2] == b"base first: insufficient arguments\n"
    assert run("first", "", "", "")[2] == b"base first: too many arguments\n"


@pytest.mark.parametrize("locale", ["C", "C.UTF-8", "POSIX"])
def test_utf8_in_any_locale(program: list[str], locale: str) -> None:
    """Arguments are read and output is written as UTF-8."""
    env = {"LC_ALL": locale, "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    text = "é€\N{SNOWMAN}"
    result = started(program, "echo", text.encode(), env=env)
    assert result.stdout == result.stderr == f"{text}\n".encode()
    result = started(program, "echo", b"\xff", env=env)
    assert result.stderr == b"base echo: invalid data in argument #1\n"


def test_full_disk(program: list[str]) -> None:
    """Output that cannot be written is an error, and one line; buffered or not."""
    with Path("/dev/full").open("wb") as full:
        for arguments in (["help"], ["first", "a"]):
            result = started(program, *arguments, stdout=full, input=b"", env={})
            error = b"Cannot write to STDOUT: No space left on device\n"
            assert (result.returncode, result.stderr) == (255, error)
        for env in ({}, {"PYTHONUNBUFFERED": "1"}):
            result = started(program, "much", stdout=full, env=env)
            error = b"base much: OSError: [Errno 28] No space left on device"
            assert (result.returncode, result.stderr.splitlines()[0]) == (255, error)
            assert started(program, "fail", stderr=full, env=env).returncode == 255


@pytest.mark.parametrize("closing", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_descriptors(program: list[str], closing: str) -> None:
    """Nothing goes elsewhere, and nothing is a crash."""
    shell = ["sh", "-c", f'exec "$@" {closing}', "sh", *program]
    result = started(shell, "size", stdin=subprocess.DEVNULL)
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout == (b"" if " >&-" in f" {closing}" else b"0 b''\n")
    result = started(shell, "other", stdin=subprocess.DEVNULL)
    assert result.returncode == 255
    assert result.stdout == b""


def test_closed_stream(program: list[str]) -> None:
    """A command may close sys.stdout."""
    result = started(program, "closed")
    assert (result.returncode, result.stderr) == (0, b"")


def test_traceback_goes_to_syslog(program: list[str]) -> None:
    """Line by line, with nothing in them that does not print."""
    result = started(program, "fail")
    told, *logged = result.stderr.splitlines()
    shown = r"ValueError: a\nb\x1bé\udcff".encode()
    assert (result.returncode, told) == (255, b"base fail: " + shown)
    assert logged[0] == b"ident: Traceback (most recent call last):"
    assert any(
        re.fullmatch(rb'ident:   File ".*", line \d+, in fail', x) for x in logged
    )
    assert logged[-2:] == [b"ident: ValueError: a", rb"ident: b\x1b\xe9\udcff"]
    assert started(program, "other").stderr == b"Unknown command other\n"


def test_traceback_goes_nowhere_else(tmp_path: Path) -> None:
    """Unless it is asked for."""
    path = tmp_path / "program.py"
    path.write_text(PROGRAM.replace(", syslog=True", ""), encoding="utf-8")
    result = started([sys.executable, str(path)], "fail")
    assert (result.returncode, result.stderr.count(b"\n")) == (255, 1)


def test_import_is_light() -> None:
    """Neither cffi nor the client is loaded, nor what takes long, to run a command."""
    script = """
        import sys
        for name in ("re", "typing", "inspect", "dataclasses", "argparse"):
            sys.modules.pop(name, None)  # whatever the start of Python has imported
        before = set(sys.modules)
        from remctl.backend import Backend
        backend = Backend()
        @backend.command()
        def f(a: int, b: "str | None" = None) -> None:
            print(a, b)
        assert backend.run(["f", "1", "b"]) == 0
        print(*sorted(set(sys.modules) - before))
        """
    result = run_python(script)
    ran, imported = result.stdout.splitlines()
    assert ran == "1 b", result.stderr
    ours = [name for name in imported.split() if name.startswith("remctl")]
    assert ours == ["remctl", "remctl.backend"] + [
        f"remctl.backend._{name}"
        for name in (
            "backend",
            "caller",
            "command",
            "errors",
            "parameters",
            "streams",
            "tree",
        )
    ]
    assert set(imported.split()) - set(ours) <= {"__future__", "_types", "types"}
