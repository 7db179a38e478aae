# SPDX-License-Identifier: MIT
"""The pytest plugin: pytest runs in projects of others, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Callable

import pytest

if TYPE_CHECKING:
    from remctl.testing import Realm, Server

USER = Path(__file__).with_name("test_of_a_user.py")

# What a conftest.py does to have no KDC, no remctld, no k5test.
NO_PROGRAMS = "import shutil; shutil.which = lambda *_, **__: None"
NO_REMCTLD = """
import shutil
which = shutil.which
shutil.which = lambda name, **more: None if name == "remctld" else which(name, **more)
"""
NO_K5TEST = "import sys; sys.modules['k5test'] = None"
MISSING = [
    (NO_PROGRAMS, "apt-get install krb5-admin-server krb5-kdc krb5-user"),
    (NO_REMCTLD, "apt-get install remctl-server"),
    (NO_K5TEST, "pip install 'remctl-cffi[testing]'"),
]


@pytest.fixture
def project(tmp_path: Path) -> Callable[..., str]:
    """Run pytest in a project: project(status, {file: text}), and return its output."""

    def run(status: int, files: dict[str, str], *options: str) -> str:
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        result = subprocess.run(
            [sys.executable, "-m", "pytest", "-ra", "-p", "no:cacheprovider", *options],
            cwd=tmp_path,
            env={
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("KRB5", "PYTEST"))
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert result.returncode == status, result.stdout
        return result.stdout

    return run


def test_ten_lines_are_enough(project: Callable[..., str]) -> None:
    """A module of a made-up project, with warnings as errors."""
    text = USER.read_text()
    assert len(text.splitlines()) <= 14
    output = project(0, {USER.name: text}, "-W", "error")
    assert "1 passed" in output


def test_fixtures_are_documented(project: Callable[..., str]) -> None:
    """In pytest's own lists."""
    assert "Start a Kerberos realm for the session" in project(0, {}, "--fixtures")
    assert "remctl_missing (string)" in project(0, {}, "--help")


def test_realm_is_one_for_the_session(
    remctl_realm: Realm, realm: Realm, server: Server
) -> None:
    """This project's own fixtures are made of it; its environment is set."""
    assert realm is remctl_realm
    assert server.log.is_relative_to(remctl_realm.directory)
    assert os.environ["KRB5_CONFIG"] == remctl_realm.env["KRB5_CONFIG"]


SESSION = """
import os
from pathlib import Path

server = None

def test_before():
    assert "KRB5_CONFIG" not in os.environ

def test_realm(remctl_realm):
    assert os.environ["KRB5_CONFIG"].startswith(str(remctl_realm.directory))

def test_server(remctl_server):
    global server
    commands = {"test hello": "true"}
    server = remctl_server(commands)
    assert remctl_server(commands=commands, address="::1").port != server.port
    assert Path(f"/proc/{server.pid}").exists()

def test_server_has_ended(remctl_realm):
    assert "signal received, exiting" in server.log.read_text()
    assert os.environ["KRB5_CONFIG"] == remctl_realm.env["KRB5_CONFIG"]
    Path("directory").write_text(str(remctl_realm.directory))
"""
SESSION_END = """
import os
import pytest

@pytest.fixture(scope="session", autouse=True)
def _end():
    before = dict(os.environ)
    yield
    before["PYTEST_CURRENT_TEST"] = os.environ["PYTEST_CURRENT_TEST"]
    assert dict(os.environ) == before
"""


def test_what_lasts_for_how_long(project: Callable[..., str], tmp_path: Path) -> None:
    """The realm and its environment for the session, a server for its test."""
    files = {"test_session.py": SESSION, "conftest.py": SESSION_END}
    assert "4 passed" in project(0, files)
    assert not Path((tmp_path / "directory").read_text()).exists()


INTERRUPTED = """
import os, signal
from pathlib import Path

def test_interrupted(remctl_realm, remctl_server):
    server = remctl_server({"test hello": "true"})
    Path("pids").write_text(f"{remctl_realm.kdc_pid} {server.pid}")
    Path("directory").write_text(str(remctl_realm.directory))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.kill(os.getpid(), signal.SIGINT)
"""


def test_ctrl_c_ends_all(project: Callable[..., str], tmp_path: Path) -> None:
    """In the middle of a test."""
    assert "KeyboardInterrupt" in project(2, {"test_interrupted.py": INTERRUPTED})
    assert not Path((tmp_path / "directory").read_text()).exists()
    for pid in (tmp_path / "pids").read_text().split():
        assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize(("how", "text"), MISSING, ids=["kdc", "remctld", "k5test"])
def test_missing_is_an_error(project: Callable[..., str], how: str, text: str) -> None:
    """That says what to install, and needs no traceback for it."""
    output = project(1, {USER.name: USER.read_text(), "conftest.py": how})
    assert text in output
    assert "Traceback" not in output
    assert "During handling" not in output
    assert "remctl/testing/" not in output


@pytest.mark.parametrize(("how", "text"), MISSING, ids=["kdc", "remctld", "k5test"])
def test_missing_is_a_skip_on_demand(
    project: Callable[..., str], how: str, text: str
) -> None:
    """Where the configuration says so; the reason is the same."""
    files = {USER.name: USER.read_text(), "conftest.py": how}
    files["pytest.ini"] = "[pytest]\nremctl_missing = skip\n"
    output = project(0, files, "--strict-config")
    assert "1 skipped" in output
    assert text in output


def test_what_fails_is_no_skip(project: Callable[..., str]) -> None:
    """Only what is missing is; remctld's own words are shown for the rest."""
    files = {
        "pytest.ini": "[pytest]\nremctl_missing = skip\n",
        "test_bad.py": """
from remctl.testing import Command

def test_bad(remctl_server):
    remctl_server({"test hello": Command("true", user="no-such-user")})
""",
    }
    assert "invalid user value no-such-user" in project(1, files)


def test_other_settings_are_refused(project: Callable[..., str]) -> None:
    """Before any test."""
    files = {USER.name: USER.read_text()}
    output = project(4, files, "-o", "remctl_missing=ignore")
    assert "remctl_missing is error or skip, not 'ignore'" in output


def test_other_projects_do_not_pay(project: Callable[..., str]) -> None:
    """Where no fixture is used, neither the client nor k5test is imported."""
    text = """
import sys

def test_modules():
    ours = {name for name in sys.modules if name.partition(".")[0] == "remctl"}
    assert ours == {"remctl", "remctl._pytest_plugin"}
    assert "k5test" not in sys.modules
"""
    assert "1 passed" in project(0, {"test_modules.py": text})
