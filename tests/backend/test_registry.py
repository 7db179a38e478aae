# SPDX-License-Identifier: MIT
"""examples/registry.py: behind a real remctld, and beside its twin in Perl."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Union

import pytest
from support import HANG

import remctl
from remctl.testing import Command, Realm

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent.parent
PROGRAM = ROOT / "examples" / "registry.py"
TWIN = Path(__file__).with_name("backend_twin.pl")

HELP = """\
User registry remctl help:
  registry count [<names> ...]                  Print how many of these users
                                                there are.
  registry create <name> <full-name> [<email>]  Create a user, who has no photo
                                                to begin with and belongs to
                                                the caller.
  registry list [-l] [-n <limit>]               List all users.
  registry photo download <name>                Write a user's photo to
                                                standard output.
  registry photo upload <name> <image>          Give a user of one's own a
                                                photo, from standard input.
  registry show <name>                          Show a user.
"""
PHOTO = """\
registry photo download <name>        Write a user's photo to standard output.
registry photo upload <name> <image>  Give a user of one's own a photo, from
                                      standard input.
"""
COUNT = """\
registry count [<names> ...]  Print how many of these users there are.

The status is 0 if all of them are there, and 1 otherwise.
"""


@pytest.fixture(scope="module")
def registry(
    realm: Realm, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, int]]:
    """Host and port of a remctld that serves the example as its docstring says."""
    directory = tmp_path_factory.mktemp("registry")
    words = [f"REGISTRY={directory}/db", sys.executable, str(PROGRAM)]
    program = f'exec env {shlex.join(words)} "$@"'
    ours = [f"princ:{realm.user}"]
    commands = {
        "registry photo": Command(program, stdin=4, help="help"),
        "registry create": Command(program, help="help", acl=ours),
        "registry ALL": Command(program, summary="summary", help="help"),
        "other ALL": Command(program, summary="summary", acl=ours),
    }
    with realm.server(commands) as server:
        yield server.host, server.port


@pytest.fixture
def client(registry: tuple[str, int]) -> Iterator[remctl.Remctl]:
    """A connection as the user."""
    with remctl.Remctl(*registry, timeout=HANG) as client:
        yield client


@pytest.fixture
def bob(
    registry: tuple[str, int], realm: Realm, tmp_path: Path
) -> Iterator[remctl.Remctl]:
    """A connection as somebody else."""
    ccache = realm.kinit("bob", tmp_path / "ccache")
    with remctl.Remctl(*registry, timeout=HANG, ccache=ccache) as client:
        yield client


def ran(client: remctl.Remctl, *command: str | bytes) -> tuple[int, bytes, bytes]:
    """Run a command of the registry; return status, standard output and error."""
    result = client.run(["registry", *command])
    return result.status, result.stdout or b"", result.stderr or b""


def test_round_trip(client: remctl.Remctl, realm: Realm) -> None:
    """Created, shown and listed, in UTF-8 and with the caller's principal."""
    assert ran(client, "create", "jane", "Jané Doe", "jane@example.org") == (
        0,
        b"",
        b"",
    )
    error = b"registry create: there is such a user: jane\n"
    assert ran(client, "create", "jane", "Jane") == (1, b"", error)
    text = "name: jane\nfull name: Jané Doe\nemail: jane@example.org\nowner: "
    assert ran(client, "show", "jane") == (0, f"{text}{realm.user}\n".encode(), b"")
    status, output, error = ran(client, "list", "--long")
    assert (status, error) == (0, b"")
    assert "jane: Jané Doe" in output.decode().splitlines()
    assert ran(client, "list", "-n", "0") == (0, b"", b"")
    assert ran(client, "count", "jane", "joe") == (1, b"1\n", b"")


def test_upload(client: remctl.Remctl) -> None:
    """All octets there are, more of them than fit a command line, there and back."""
    assert ran(client, "create", "carl", "Carl")[0] == 0
    error = b"registry photo download: no photo: carl\n"
    assert ran(client, "photo", "download", "carl") == (1, b"", error)
    image = bytes(range(256)) * 1500
    size = b"384000 octets\n"
    assert ran(client, "photo", "upload", "carl", image) == (0, size, b"")
    assert ran(client, "photo", "download", "carl") == (0, image, b"")
    assert ran(client, "photo", "upload", "carl", b"") == (0, b"0 octets\n", b"")
    assert ran(client, "photo", "download", "carl") == (0, b"", b"")


def test_access(client: remctl.Remctl, bob: remctl.Remctl) -> None:
    """remctld's own lists, and the program's rule about whose a user is."""
    assert ran(client, "create", "dora", "Dora")[0] == 0
    assert ran(bob, "show", "dora")[0] == 0
    error = b"registry photo upload: the user is not yours: dora\n"
    assert ran(bob, "photo", "upload", "dora", b"image") == (2, b"", error)
    with pytest.raises(remctl.RemctlProtocolError, match=r"^Access denied$"):
        ran(bob, "create", "eve", "Eve")
    assert ran(client, "count", "eve") == (1, b"0\n", b"")


def test_help_through_the_server(client: remctl.Remctl, bob: remctl.Remctl) -> None:
    """What remctld does with summary= and help=, and who may see what."""

    def helped(client: remctl.Remctl, *command: str) -> tuple[int, bytes, bytes]:
        result = client.run(["help", *command])
        return result.status, result.stdout or b"", result.stderr or b""

    once = HELP.encode()
    assert helped(client) == (0, once * 2, b"")
    assert helped(bob) == (0, once, b"")
    assert helped(client, "registry") == (0, once, b"")
    assert helped(client, "registry", "photo") == (0, PHOTO.encode(), b"")
    assert helped(bob, "registry", "count") == (0, COUNT.encode(), b"")
    error = b"Unknown command other\n"
    assert helped(client, "registry", "other") == (255, b"", error)
    with pytest.raises(remctl.RemctlProtocolError, match=r"^Access denied$"):
        helped(bob, "registry", "create")
    with pytest.raises(remctl.RemctlProtocolError, match=r"^No help defined"):
        helped(client, "other", "list")


HOSTILE: list[tuple[list[str | bytes], bytes]] = [
    (["show", b"\xff\xfe"], b"registry show: invalid data in argument #1\n"),
    (["show", "a\nregistry show: b"], b"registry show: invalid data in argument #1\n"),
    (["show", "\x1b]0;title\x07"], b"registry show: invalid data in argument #1\n"),
    (["show", "--help"], b"registry show: invalid argument: --help\n"),
    (
        ["show", "../../etc/passwd"],
        b"registry show: invalid argument: ../../etc/passwd\n",
    ),
    (
        ["show", "a'; DROP TABLE users; --"],
        b"registry show: invalid argument: a'; DROP TABLE users; --\n",
    ),
    (["show", ""], b"registry show: invalid argument: \n"),
    (
        ["show", "a" * 100_000],
        b"registry show: invalid argument: " + b"a" * 100_000 + b"\n",
    ),
    (["show"], b"registry show: insufficient arguments\n"),
    (["show", "a", "b"], b"registry show: too many arguments\n"),
    (["create", "frank", "a\0b"], b""),
    (["create", "frank", "a\tb"], b"registry create: invalid data in argument #2\n"),
    (["create", "--", "frank"], b"registry create: invalid argument: --\n"),
    (
        ["list", "--limit=\n"],
        b"registry list: argument -n/--limit: invalid int value: '\\n'\n",
    ),
    (["list", "-x\n"], b"registry list: unrecognized arguments: -x\\n\n"),
    (["list", "@/etc/passwd"], b"registry list: too many arguments\n"),
    (
        ["count", *["x"] * 4000, b"\xff"],
        b"registry count: invalid data in argument #4001\n",
    ),
    (["photo"], b"Unknown command photo\n"),
    (["photo", "up\nload"], b"Unknown command photo up\\nload\n"),
    (
        ["photo", "upload", "frank\n", b"\0"],
        b"registry photo upload: invalid data in argument #1\n",
    ),
    (["photo", "upload", "frank"], b"registry photo upload: no such user: frank\n"),
    ([b"\xff\x1b"], b"Unknown command \\udcff\\x1b\n"),
    ([""], b"Unknown command \n"),
    ([], b"Unknown command \n"),
    (["__init__"], b"Unknown command __init__\n"),
]


def test_hostile_arguments(client: remctl.Remctl) -> None:
    """Each is refused in one line, and none gets to the database."""
    before = ran(client, "list", "--long")
    for command, error in HOSTILE:
        if error:
            status, output, stderr = ran(client, *command)
            assert (output, stderr) == (b"", error)
            assert status == (1 if b"no such user" in error else 255)
        else:  # remctld's own answer to NUL
            with pytest.raises(remctl.RemctlProtocolError, match=r"^Invalid command"):
                ran(client, *command)
    assert ran(client, "list", "--long") == before


Outcome = tuple[int, bytes, bytes]  # status, standard output, standard error
Row = tuple[list[Union[str, bytes]], bytes]  # arguments, standard input

IMAGE = bytes(range(256)) * 400

# Both programs get these in this order, each with entries of its own.
SAME: list[Row] = [
    (["list"], b""),
    (["create", "jane", "Jané Doe", "jane@example.org"], b""),
    (["create", "joe", "Joe"], b""),
    (["create", "joe", "Joe"], b""),
    (["create", "Joe", "Joe"], b""),
    (["create", "mary", "Mary", "no address"], b""),
    (["create", "mary", "Mary", "mary@example.org\n"], b""),
    (["create", "mary", "two\nlines"], b""),
    (["create", "mary", b"not UTF-8: \xe9"], b""),
    (["create", "mary"], b""),
    (["create", "mary", "Mary", "mary@example.org", "more"], b""),
    (["create", "mary", "-l", "mary@example.org"], b""),
    (["list"], b""),
    (["list", "-l"], b""),
    (["list", "--long", "--limit=1"], b""),
    (["list", "-ln2"], b""),
    (["list", "-n", "0"], b""),
    (["list", "--"], b""),
    (["list", "-l", "--", "-l"], b""),
    (["list", "more", "-l"], b""),
    (["show", "jane"], b""),
    (["show", "joe"], b""),
    (["show", "peter"], b""),
    (["show"], b""),
    (["show", "jane", "joe"], b""),
    (["show", ""], b""),
    (["show", "--help"], b""),
    (["show", "jané"], b""),
    (["show", "jane\n"], b""),
    (["show", "\x1b[2J"], b""),
    (["show", b"\xff"], b""),
    (["show", "a" * 100_000], b""),
    (["count"], b""),
    (["count", "jane", "joe"], b""),
    (["count", "jane", "peter", "--", ""], b""),
    (["photo"], b""),
    (["photo", "show", "jane"], b""),
    (["photo", ""], b""),
    (["photo", "download"], b""),
    (["photo", "download", "jane"], b""),
    (["photo", "download", "peter"], b""),
    (["photo", "upload"], IMAGE),
    (["photo", "upload", "jane", "joe"], IMAGE),
    (["photo", "upload", "peter"], IMAGE),
    (["photo", "upload", "jane\n"], IMAGE),
    (["photo", "upload", "jane"], IMAGE),
    (["photo", "download", "jane"], b""),
    (["photo", "upload", "jane"], b""),
    (["photo", "download", "jane"], b""),
    (["help"], b""),
    (["other"], b""),
    (["other", "show", "jane"], b""),
    (["Show", "jane"], b""),
    (["--help"], b""),
    ([""], b""),
]

# What is not the same, on purpose: first ours, then the twin's, as status, the
# beginning of standard output, and the end of standard error.
DIFFERENT: list[tuple[list[str], Outcome, Outcome]] = [
    # remctld asks for the help of one command, and for a summary.
    (["help", "count"], (0, COUNT.encode(), b""), (0, HELP.encode(), b"")),
    (["summary"], (0, HELP.encode(), b""), (255, b"", b"Unknown command summary\n")),
    # argparse has its own messages, and does not guess.
    (
        ["list", "--other"],
        (255, b"", b"registry list: unrecognized arguments: --other\n"),
        (255, b"", b"registry list: unknown option: other\n"),
    ),
    (
        ["list", "-n", "x"],
        (255, b"", b"registry list: argument -n/--limit: invalid int value: 'x'\n"),
        # Newer ones say: "integer number expected".
        (255, b"", b"number expected)\n"),
    ),
    (
        ["list", "--lon"],
        (255, b"", b"registry list: unrecognized arguments: --lon\n"),
        (0, b"jane: Jan", b""),
    ),
    # An error is one line that prints.
    (
        ["a\nb"],
        (255, b"", b"Unknown command a\\nb\n"),
        (255, b"", b"Unknown command a\nb\n"),
    ),
    # Perl warns of undefined values.
    ([], (255, b"", b"Unknown command \n"), (255, b"", b"\nUnknown command \n")),
]


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> list[Callable[..., Outcome]]:
    """The example and its twin: functions of arguments and standard input."""
    directory = tmp_path_factory.mktemp("twins")

    def twin(*command: str) -> Callable[..., Outcome]:
        env = {
            "LC_ALL": "C.UTF-8",
            "PATH": os.environ["PATH"],
            "REGISTRY": str(directory / command[-1].replace("/", "-")),
            "REMCTL_COMMAND": "registry",
            "REMOTE_ADDR": "127.0.0.1",
            "REMOTE_USER": "user@EXAMPLE.ORG",
        }

        def run(arguments: list[str | bytes], data: bytes = b"") -> Outcome:
            result = subprocess.run(
                [*command, *arguments],
                input=data,
                env=env,
                capture_output=True,
                timeout=HANG,
                check=False,
            )
            return result.returncode, result.stdout, result.stderr

        return run

    return [twin(sys.executable, str(PROGRAM)), twin("perl", str(TWIN))]


@pytest.fixture(scope="module")
def outcomes(twins: list[Callable[..., Outcome]]) -> list[list[Outcome]]:
    """What both do with the rows of SAME, one after the other."""
    return [[run(*row) for row in SAME] for run in twins]


@pytest.mark.parametrize("number", range(len(SAME)), ids=lambda n: str(SAME[n])[:60])
def test_same_as_in_perl(outcomes: list[list[Outcome]], number: int) -> None:
    """Output and status are those of the twin with Net::Remctl::Backend."""
    ours, twins = (outcome[number] for outcome in outcomes)
    assert ours == twins


def test_rows_are_of_all_kinds(outcomes: list[list[Outcome]]) -> None:
    """Each command of the help succeeds once; all messages of checks are there."""
    good = {
        tuple(row[0][: 2 if row[0][0] == "photo" else 1])
        for row, (status, _, _) in zip(SAME, outcomes[0])
        if status == 0
    }
    assert len(good) == HELP.count("\n  registry") + 1
    errors = b"".join(error for _, _, error in outcomes[0])
    for message in (
        b"too many arguments",
        b"insufficient arguments",
        b"invalid argument: ",
        b"invalid data in argument #",
        b"Unknown command ",
    ):
        assert errors.count(message) >= 3
    assert any(output == IMAGE for _, output, _ in outcomes[0])


@pytest.mark.usefixtures("outcomes")
@pytest.mark.parametrize(("arguments", "ours", "perls"), DIFFERENT)
def test_different_from_perl(
    twins: list[Callable[..., Outcome]],
    arguments: list[str | bytes],
    ours: Outcome,
    perls: Outcome,
) -> None:
    """What differs on purpose, and how."""
    for run, expected in zip(twins, (ours, perls)):
        status, output, error = run(arguments)
        assert status == expected[0]
        assert output.startswith(expected[1]) and error.endswith(expected[2])
        assert bool(output) == bool(expected[1]) and bool(error) == bool(expected[2])
