# SPDX-License-Identifier: MIT
"""remctl.testing: realms and servers, how they begin and how they end."""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from kerberos import applied
from support import HANG, run_python, wait_until

import remctl
from remctl.testing import Command, MissingError, Realm, StartError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from remctl.testing import Server

HELLO = {"test hello": "echo hello"}
NOBODY = "nobody" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where realms make their directories, for this test; none has processes left."""
    directory = tmp_path / "temporary"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    yield directory
    wait_until(lambda: not processes(f"{directory}/remctl-realm-"))


def processes(text: str) -> list[Path]:
    """Return the processes that have ``text`` in their arguments or environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is somebody else's
            words = [(path / name).read_bytes() for name in ("cmdline", "environ")]
            if text.encode() in b"".join(words):
                found.append(path)
    return found


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory whose programs come before the system's."""
    directory = tmp_path / "programs"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}:/usr/sbin")
    return directory


def program(path: Path, script: str) -> None:
    """Write a shell script to ``path``."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def run(server: Server, *command: object, **options: Any) -> remctl.RemctlSimpleResult:
    """Run a command on ``server``."""
    return remctl.remctl(server.host, server.port, None, command, **options)


def stdout(server: Server, *command: object, **options: Any) -> str:
    """Return what a command prints."""
    return (run(server, *command, **options).stdout or b"").decode()


def running(pid: int) -> bool:
    """Whether there is such a process, which has not ended."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] not in "XZ"


def klist(*arguments: object) -> str:
    """Return what klist says about a cache or a keytab."""
    return subprocess.run(
        ["klist", *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout


# Realms


def test_realm_lasts_as_long_as_its_block(temporary: Path) -> None:
    """One directory, a KDC on loopback, tickets and a keytab; nothing is left."""
    realm = Realm("OWN.EXAMPLE")
    with realm as entered:
        assert entered is realm
        assert list(temporary.iterdir()) == [realm.directory]
        names = ("KRB5_CONFIG", "KRB5CCNAME", "KRB5_KTNAME")
        for name in names:
            assert Path(realm.env[name]).parent == realm.directory
        assert str(realm.keytab) == realm.env["KRB5_KTNAME"]
        kdc_pid = realm.kdc_pid
        assert running(kdc_pid)
        assert (realm.name, realm.user, realm.service) == (
            "OWN.EXAMPLE",
            "user@OWN.EXAMPLE",
            "host/localhost@OWN.EXAMPLE",
        )
        with realm.applied():
            assert f"principal: {realm.user}" in klist()
            assert realm.service in klist("-k")
    assert not running(kdc_pid)
    assert list(temporary.iterdir()) == []
    for use in ("env", "directory", "keytab", "kdc_pid"):
        with pytest.raises(RuntimeError, match="the realm is not running"):
            getattr(realm, use)
    with realm:  # and again
        assert running(realm.kdc_pid)
        with pytest.raises(RuntimeError, match="the realm is running"):
            realm.__enter__()


@pytest.mark.parametrize("name", ["", "A B", "A\n", "A/B", "$A"])
def test_names_of_realms(name: str) -> None:
    """What krb5.conf could not hold is refused at once."""
    with pytest.raises(ValueError, match="not a name for a realm"):
        Realm(name)


def test_principals_on_demand(realm: Realm, server: Server, tmp_path: Path) -> None:
    """Created when asked for first, by short or full name; kinit knows the password."""
    alice = realm.principal("alice")
    assert alice == "alice@KRBTEST.COM"
    assert realm.principal(alice) == realm.principal("alice") == alice
    for name in ("alice", alice, "carol/admin", "dave"):
        cache = realm.kinit(name, tmp_path / "cache")
        full = realm.principal(name)
        assert stdout(server, "test", "user", ccache=cache) == f"{full}\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("", "not the name of a principal: ''"),
        ("a b", "not the name"),
        ("a\n", "not the name"),
        ("a\\b", "not the name"),
        ("-randkey", "not the name"),
        ("a@b@c", "not the name"),
        ("a@OTHER.COM", "a@OTHER.COM is not of the realm KRBTEST.COM"),
    ],
)
def test_names_of_principals(realm: Realm, name: str, text: str) -> None:
    """What kadmin would take for something else is refused."""
    for call in (realm.principal, realm.kinit):
        with pytest.raises(ValueError, match=text):
            call(name)


def test_keytabs_on_demand(realm: Realm, server: Server, tmp_path: Path) -> None:
    """Keys of several principals in one file; the passwords stay as they are."""
    keytab = tmp_path / "a keytab"
    assert realm.extract_keytab("erin", keytab) == keytab
    assert realm.extract_keytab("HTTP/localhost", keytab) == keytab
    listed = klist("-k", keytab)
    assert realm.principal("erin") in listed
    assert realm.principal("HTTP/localhost") in listed
    cache = str(tmp_path / "cache")
    kinit: list[Any] = ["kinit", "-c", cache, "-k", "-t", keytab, "erin"]
    subprocess.run(kinit, stdout=subprocess.DEVNULL, check=True)
    assert stdout(server, "test", "user", ccache=cache) == "erin@KRBTEST.COM\n"
    realm.kinit("erin", cache)


def test_kinit(realm: Realm, tmp_path: Path) -> None:
    """Into the default cache or another, with its own options; what it says counts."""
    default = realm.env["KRB5CCNAME"]
    assert realm.kinit("bob") == default
    assert "principal: bob@" in klist()
    assert realm.kinit(realm.user) == default
    assert f"principal: {realm.user}" in klist()
    cache = realm.kinit("bob", tmp_path / "cache", "-l", "1s")
    end = time.monotonic() + HANG
    while subprocess.run(["klist", "-s", cache], check=False).returncode == 0:
        assert time.monotonic() < end
        time.sleep(0.1)
    with pytest.raises(StartError, match="Usage: kinit"):
        realm.kinit("bob", tmp_path / "cache", "--no-such-option")


def test_environment_is_put_back(realm: Realm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever happens in the block, and whether or not there was a variable."""
    monkeypatch.setenv("KRB5CCNAME", "before")
    monkeypatch.delenv("KRB5_CONFIG")
    before = dict(os.environ)
    with pytest.raises(KeyError), realm.applied():
        assert realm.env.items() <= os.environ.items()
        os.environ["KRB5CCNAME"] = "changed"
        del os.environ["KRB5_KTNAME"]
        raise KeyError
    assert dict(os.environ) == before
    realm.env.clear()  # a copy
    assert "KRB5_CONFIG" in realm.env


def test_realms_beside_each_other() -> None:
    """Of one name, in one process: each has its own keys, tickets and servers."""
    with Realm() as one, Realm() as two:
        assert one.directory != two.directory
        servers = [one.server({"test who": "echo one"}), two.server(HELLO)]
        with servers[0] as first, servers[1] as second:
            with applied(one):
                assert stdout(first, "test", "who") == "one\n"
                with pytest.raises(remctl.RemctlProtocolError, match="GSS-API error"):
                    run(second, "test", "hello")
            with applied(two):
                assert stdout(second, "test", "hello") == "hello\n"
        two.__exit__(None, None, None)
        with applied(one), one.server(HELLO) as third:
            assert stdout(third, "test", "hello") == "hello\n"


def test_a_forked_child_does_not_end_the_realm(temporary: Path) -> None:
    """Nor the server."""
    with Realm() as realm, realm.server(HELLO) as server:
        child = os.fork()
        if child == 0:
            server.__exit__(None, None, None)
            realm.__exit__(None, None, None)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert running(realm.kdc_pid)
        with applied(realm):
            assert stdout(server, "test", "hello") == "hello\n"
    assert list(temporary.iterdir()) == []


# Realms and servers that cannot start


def test_missing_programs_are_named(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, realm: Realm
) -> None:
    """All of them, and the packages that have them."""
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(MissingError) as caught, Realm():
        pass
    for name in ("krb5kdc", "kdb5_util", "kadmin.local", "kinit", "krb5-user"):
        assert name in str(caught.value)
    with pytest.raises(MissingError, match=r"remctld; .*apt-get install remctl-server"):
        with realm.server(HELLO):
            pass
    assert list(temporary.iterdir()) == []


NO_K5TEST = """
import sys
sys.modules["k5test"] = None
from remctl.testing import FakeRemctl, MissingError, Realm
FakeRemctl().open("host")
try:
    with Realm():
        pass
except MissingError as error:
    print(error)
"""


def test_missing_k5test_is_named(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the extra that brings it; the rest of the package does not need it."""
    monkeypatch.setenv("TMPDIR", str(temporary))
    result = run_python(NO_K5TEST)
    assert re.match(r"not found: .*k5test; .*remctl-cffi\[testing\]", result.stdout)
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("name", ["kdb5_util", "kadmin.local", "krb5kdc", "kinit"])
def test_a_program_that_fails_is_quoted(
    temporary: Path, programs: Path, name: str
) -> None:
    """And nothing is left of the realm."""
    program(programs / name, "echo 'out of order' >&2; exit 3")
    with pytest.raises(StartError, match=rf"{name}.* status 3:\n.*out of order"):
        with Realm():
            pass
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("name", ["kadmin.local", "krb5kdc", "remctld"])
def test_programs_see_the_rest_of_the_environment(
    temporary: Path, programs: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """LD_LIBRARY_PATH, say, which those of another prefix may need."""
    monkeypatch.setenv("LIBRARIES", "here")
    real = shutil.which(name, path=os.environ["PATH"].partition(":")[2])
    script = f'test "$LIBRARIES" = here && exec {real} "$@"; echo not here; exit 3'
    program(programs / name, script)
    with Realm() as realm, realm.server(HELLO):
        pass


def test_a_server_that_does_not_come_up_says_why(realm: Realm) -> None:
    """With what remctld said, of configuration and port."""
    bad = {"test hello": Command("echo hello", user="no-such-user")}
    with pytest.raises(
        StartError, match=r"(?s)remctld ended .*user value no-such-user"
    ):
        with realm.server(bad):
            pass
    with realm.server(HELLO) as server:
        server.stop()
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("127.0.0.1", server.port))
            other.listen()
            with pytest.raises(StartError, match=r"(?s)cannot bind .*already in use"):
                server.start()
        server.start()
        assert stdout(server, "test", "hello") == "hello\n"


def test_a_directory_with_a_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Serves a realm and programs; remctl.conf could not hold a snippet's path."""
    directory = tmp_path / "a directory"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    with Realm() as realm, applied(realm):
        with realm.server({"test echo": Path("/bin/echo")}) as server:
            assert stdout(server, "test", "echo") == "echo\n"
        with pytest.raises(ValueError, match="TMPDIR, must be one word"):
            with realm.server(HELLO):
                pass
    assert list(directory.iterdir()) == []


# Servers


def test_server_is_how_to_reach_it(realm: Realm) -> None:
    """Host, port, principal and log; none of them before it has started."""
    server = realm.server(HELLO)
    for use in ("port", "log", "pid"):
        with pytest.raises(RuntimeError, match=r"the server (has|is) not"):
            getattr(server, use)
    with server as entered:
        assert entered is server
        assert (server.host, server.principal) == ("localhost", realm.service)
        assert stdout(server, "test", "hello") == "hello\n"
        assert f"COMMAND from {realm.user}: test hello" in server.log.read_text()
        assert server.log.is_relative_to(realm.directory)
        pid = server.pid
        assert running(pid)
        with pytest.raises(RuntimeError, match="the server has been started"):
            server.__enter__()
    assert not running(pid)
    assert "starting" in server.log.read_text()  # until the realm ends
    with pytest.raises(RuntimeError, match="not in its with block"):
        server.start()
    with server:  # and again
        assert stdout(server, "test", "hello") == "hello\n"


def test_commands(realm: Realm) -> None:
    """Snippets, programs, and all that remctl.conf has for a command."""
    echo = 'for each; do printf "<%s>" "$each"; done; cat'
    commands: dict[str, str | Path | Command] = {
        "test args": echo,
        "test EMPTY": f"echo empty; {echo}",
        "test stdin": Command(echo, stdin=2),
        "test last": Command(echo, stdin="last"),
        "test path": Path("/bin/echo"),
        "test command": Command(Path("/bin/echo"), acl=("ANYUSER",)),
        "test secret": Command("echo secret", acl=[f"princ:{realm.principal('bob')}"]),
        "test not-me": Command("true", acl=[f"deny:princ:{realm.user}", "ANYUSER"]),
        "test backslash": Command("echo ends", acl=["princ:a\\", "ANYUSER"]),
        "test masked": Command("true", logmask=[2, 4]),
        "test help": Command(echo, summary="--usage", help="--help"),
        "test user": Command("id -un", user=NOBODY),
        "test lines": "cat <<'END'\na 'b' \"c\"\nü\nEND",
        "other ALL": echo,
        "other late": "echo late",
    }
    with realm.server(commands) as server:
        assert stdout(server, "test", "args", "a b", "") == "<args><a b><>"
        assert stdout(server, "test") == "empty\n"
        assert stdout(server, "test", "stdin", b"\0\xc3\xbc", "b") == "<stdin><b>\0ü"
        assert stdout(server, "test", "last", "a", "b") == "<last><a>b"
        assert stdout(server, "test", "path", "a  b") == "path a  b\n"
        assert stdout(server, "test", "command") == "command\n"
        for word in ("secret", "not-me"):
            with pytest.raises(remctl.RemctlProtocolError, match="Access denied"):
                run(server, "test", word)
        assert stdout(server, "test", "backslash") == "ends\n"
        run(server, "test", "masked", "one", "two", "three")
        log = server.log.read_text()
        assert "test masked **MASKED** two **MASKED**" in log
        assert stdout(server, "help") == "<--usage><help>"
        assert stdout(server, "help", "test", "help") == "<--help><help>"
        assert stdout(server, "test", "lines") == "a 'b' \"c\"\nü\n"
        # The first that matches.
        assert stdout(server, "other", "late") == "<late>"
        as_user = run(server, "test", "user")
        if os.getuid() == 0:
            assert as_user.stdout == b"nobody\n"
        else:
            assert "cannot initgroups" in server.log.read_text()


@pytest.mark.parametrize(
    ("values", "error", "text"),
    [
        ({"program": 7}, TypeError, "a program is a str or a path, not 7"),
        ({"program": Path("/a b")}, ValueError, "path must be one word.*'/a b'"),
        ({"program": Path("/a\nb")}, ValueError, "path must be one word"),
        ({"program": Path("bin/x")}, ValueError, "path must be absolute: 'bin/x'"),
        ({"program": "echo \0"}, ValueError, "must not contain NUL"),
        ({"acl": "ANYUSER"}, TypeError, "acl must be a sequence, not 'ANYUSER'"),
        ({"acl": []}, ValueError, "acl must not be empty"),
        ({"acl": ["princ:a b"]}, ValueError, "an ACL entry must be one word"),
        ({"acl": [""]}, ValueError, "an ACL entry must be one word"),
        ({"acl": [b"x"]}, TypeError, "an ACL entry must be a str, not b'x'"),
        ({"acl": ["a=b"]}, ValueError, "a = needs its method: 'a=b'"),
        ({"stdin": 0}, ValueError, "stdin must be at least 1: 0"),
        ({"stdin": "first"}, TypeError, "stdin must be a number: 'first'"),
        ({"stdin": True}, TypeError, "stdin must be a number: True"),
        ({"summary": ""}, ValueError, "summary must be one word"),
        ({"summary": "a b"}, ValueError, "summary must be one word"),
        ({"help": "a\tb"}, ValueError, "help must be one word"),
        ({"help": 3}, TypeError, "help must be a str, not 3"),
        ({"user": "a b"}, ValueError, "user must be one word"),
        ({"user": 0}, ValueError, "user must be at least 1: 0"),
        ({"user": 1.5}, TypeError, "user must be a number: 1.5"),
        ({"logmask": 2}, TypeError, "logmask must be a sequence, not 2"),
        ({"logmask": [0]}, ValueError, "logmask must be at least 1: 0"),
    ],
    ids=repr,
)
def test_commands_that_remctl_conf_cannot_hold(
    values: dict[str, Any], error: type[Exception], text: str
) -> None:
    """Are refused where they are written."""
    with pytest.raises(error, match=text):
        Command(**{"program": "true", **values})


@pytest.mark.parametrize(
    ("commands", "error", "text"),
    [
        ("test hello /bin/true ANYUSER", TypeError, "commands must be a mapping"),
        ({"test": "true"}, ValueError, "two words, .* EMPTY or ALL: 'test'"),
        ({"test a b": "true"}, ValueError, "two words"),
        ({"": "true"}, ValueError, "two words"),
        ({"#test hello": "true"}, ValueError, "takes it for a comment"),
        ({"test \0": "true"}, ValueError, "a command must be one word"),
        ({("test", "hello"): "true"}, TypeError, "a command is a str"),
        ({"test hello": None}, TypeError, "a program is a str or a path"),
    ],
    ids=repr,
)
def test_mappings_that_remctl_conf_cannot_hold(
    realm: Realm, commands: Any, error: type[Exception], text: str
) -> None:
    """Are refused before anything starts, or changes."""
    with pytest.raises(error, match=text):
        realm.server(commands)
    with realm.server(HELLO) as server:
        with pytest.raises(error, match=text):
            server.reload(commands)
        assert stdout(server, "test", "hello") == "hello\n"


@pytest.mark.parametrize("address", ["10.0.0.1", "0.0.0.0", "localhost", ""])
def test_addresses_that_are_not_loopback(realm: Realm, address: str) -> None:
    """Are refused as well."""
    with pytest.raises(ValueError, match=r"loopback|not appear to be an IPv4 or IPv6"):
        realm.server(HELLO, address=address)


@pytest.mark.parametrize("address", ["127.0.0.2", "::1"])
def test_addresses(realm: Realm, address: str) -> None:
    """Any of loopback, of IPv6 too; the service is the same."""
    with realm.server(HELLO, address=address) as server:
        assert server.host == address
        arguments = server.host, server.port, server.principal, ["test", "hello"]
        assert remctl.remctl(*arguments).stdout == b"hello\n"


def test_an_address_that_is_not_there(
    realm: Realm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As IPv6's on some machines."""
    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "bind", no_address)
        with pytest.raises(StartError, match="no port on ::1: not this one"):
            with realm.server(HELLO, address="::1"):
                pass


def no_address(*_: object) -> None:
    raise OSError(errno.EADDRNOTAVAIL, "not this one")


def test_no_commands(realm: Realm) -> None:
    """A server that knows none."""
    with realm.server({}) as server:
        with pytest.raises(remctl.RemctlProtocolError, match="Unknown command"):
            run(server, "test", "hello")


def test_reload(realm: Realm) -> None:
    """Other commands at once for new connections, many times, and for no others."""
    with realm.server(HELLO) as server, remctl.Remctl(server.host, server.port) as old:
        pid = server.pid
        for turn in range(20):
            server.reload({"test turn": f"echo {turn}"})
            assert stdout(server, "test", "turn") == f"{turn}\n"
        with pytest.raises(remctl.RemctlProtocolError, match="Unknown command"):
            run(server, "test", "hello")
        assert old.run(["test", "hello"]).stdout == b"hello\n"
        assert server.pid == pid
        server.stop()
        server.start()
        assert stdout(server, "test", "turn") == "19\n"


def test_reload_that_remctld_ends_over(realm: Realm) -> None:
    """Says why; the server can still be left."""
    with realm.server(HELLO) as server:
        pid = server.pid
        with pytest.raises(StartError, match=r"(?s)ended .* user value no-such-user"):
            server.reload({"test hello": Command("true", user="no-such-user")})
        assert not running(pid)
        with pytest.raises(RuntimeError, match="the server is not running"):
            server.reload(HELLO)


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_stop_and_start(realm: Realm, how: str) -> None:
    """One server with its connections and their commands, and no other."""
    slow = {**HELLO, "test pid": "echo $$; sleep 60"}
    with realm.server(slow) as server, realm.server(HELLO) as other:
        port, pid = server.port, server.pid
        with pytest.raises(RuntimeError, match="the server is running"):
            server.start()
        with remctl.Remctl(server.host, port, timeout=HANG) as client:
            client.command(["test", "pid"])
            command = int(client.output().output or b"")
            getattr(server, how)()
            getattr(server, how)()
            with pytest.raises(remctl.RemctlError):
                list(client)
        assert not running(pid)
        assert not running(command)
        assert stdout(other, "test", "hello") == "hello\n"
        with pytest.raises(remctl.RemctlProtocolError, match="refused"):
            run(server, "test", "hello")
        server.start()
        assert (server.port, stdout(server, "test", "hello")) == (port, "hello\n")
        assert server.pid != pid


# Commands that print their process id, and how they try to outlive their server.
PERSISTENT = {
    "test group": "echo $$; exec sleep 60",
    "test deaf": "trap '' HUP TERM; echo $$; sleep 60; sleep 60",
    "test children": "for i in 1 2 3; do sleep 60 & done; echo $!; wait",
    "test orphan": "sleep 60 & echo $!",
    "test session": "setsid sh -c 'echo $$; exec sleep 60'",
    "test daemon": "setsid sh -c 'echo $$; exec sleep 60 <&- >&- 2>&-' & wait",
    "test bare": "exec env -i sh -c 'echo $$; exec sleep 60'",
    "test aside": "exec env -i perl -e '$| = 1; setpgrp; print qq($$\\n); sleep 60'",
}


def at_end(descriptor: int) -> bool:
    """Whether a connection has ended, behind what came before; does not wait."""
    with socket.socket(fileno=os.dup(descriptor)) as duplicate:
        try:
            while duplicate.recv(65536, socket.MSG_DONTWAIT) != b"":
                pass
        except BlockingIOError:
            return False
        except ConnectionResetError:
            pass
    return True


def test_nothing_is_left_of_a_server(realm: Realm) -> None:
    """Neither a process nor an open connection, as soon as stop() and kill() return."""
    left = []
    with realm.server(PERSISTENT) as server:
        for turn in range(104):
            name = list(PERSISTENT)[turn // 2 % len(PERSISTENT)].split()
            how = (server.stop, server.kill)[turn % 2]
            with remctl.Remctl(server.host, server.port, timeout=HANG) as client:
                client.command(name)
                command = int(client.output().output or b"")
                assert running(command)
                how()
                ended = at_end(client.fileno())
                pids = processes(f"{server.log.parent}/")
                if pids or running(command) or not ended:
                    left.append((turn, name, how.__name__, pids, ended))
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(command, signal.SIGKILL)
            server.start()
    assert left == []


def test_a_process_that_does_not_end(
    realm: Realm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Is waited for no longer than said, and named; another try is for all of them."""
    with realm.server(PERSISTENT) as server:
        pid = server.pid
        with remctl.Remctl(server.host, server.port, timeout=HANG) as client:
            client.command(["test", "session"])
            command = int(client.output().output or b"")
            with monkeypatch.context() as patch:
                patch.setattr("remctl.testing._daemon._KILL_TIMEOUT", 0.0)
                with pytest.raises(StartError, match=rf"does not end: .*\b{command}\b"):
                    server.kill()
            server.kill()
            assert not running(command)
            assert not running(pid)
            assert at_end(client.fileno())
        server.start()


# The end of a process


PROCESS = """
import os, signal, sys, time
from remctl.testing import Realm
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    with Realm() as realm, realm.server({"test hello": "echo hello"}) as server:
        print(realm.kdc_pid, server.pid, flush=True)
        time.sleep(60)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.fixture
def process(temporary: Path) -> Iterator[subprocess.Popen[str]]:
    """A program with a realm and a server."""
    with subprocess.Popen(
        [sys.executable, "-c", PROCESS],
        cwd=temporary.parent,
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.kill()


# Lines of the start that are passed over for each one that is interrupted.
STEP = 7
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGKILL]


@pytest.mark.parametrize("number", SIGNALS)
def test_the_end_of_the_process_ends_all(
    temporary: Path, process: subprocess.Popen[str], number: signal.Signals
) -> None:
    """However it ends, its servers and its directory go."""
    assert process.stdout is not None
    pids = list(map(int, process.stdout.readline().split()))
    assert all(map(running, pids))
    process.send_signal(number)
    expected = 130 if number == signal.SIGINT else -number
    assert process.wait(HANG) == expected
    wait_until(lambda: not any(map(running, pids)))
    wait_until(lambda: not list(temporary.iterdir()))


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("name", ["kdb5_util", "kadmin.local", "krb5kdc", "remctld"])
def test_the_end_of_a_process_that_is_starting(
    temporary: Path,
    programs: Path,
    request: pytest.FixtureRequest,
    name: str,
    number: signal.Signals,
) -> None:
    """Whatever it is waiting for."""
    here = programs / "here"
    real = shutil.which(name, path=os.environ["PATH"].partition(":")[2])
    program(programs / name, f'echo $$ >{here}; sleep 1; exec {real} "$@"')
    process: subprocess.Popen[str] = request.getfixturevalue("process")
    wait_until(lambda: here.exists() and here.read_text() != "")
    process.send_signal(number)
    process.wait(HANG)
    pid = int(here.read_text())
    wait_until(lambda: not running(pid))
    wait_until(lambda: not list(temporary.iterdir()))


# Runs the start again and again, with a KeyboardInterrupt at one more of its lines.
INTERRUPTED = """
import os, sys
import remctl.testing
from remctl.testing import Realm

directory = os.path.dirname(remctl.testing.__file__)

def interrupt_at(number):
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        if not frame.f_code.co_filename.startswith(directory):
            return None
        if event == "line":
            count += 1
            if count == number:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    return trace

interrupted = 0
for number in range(1, 10_000, int(sys.argv[1])):
    sys.settrace(interrupt_at(number))
    try:
        with Realm() as realm, realm.server({"test hello": "true"}):
            sys.settrace(None)
            break
    except KeyboardInterrupt:
        interrupted += 1
print(interrupted)
"""


def test_ctrl_c_at_any_line_of_the_start(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No process and no file is left of it, once the interpreter has ended."""
    monkeypatch.setenv("TMPDIR", str(temporary))
    result = run_python(INTERRUPTED, STEP)
    assert (result.returncode, result.stderr) == (0, "")
    assert int(result.stdout) > 10
    wait_until(lambda: not list(temporary.iterdir()))
