# SPDX-License-Identifier: MIT
"""Every code block of README.md and of the site, run as a reader would run it.

The conventions, which leave a page no hidden code:

``python``
    A program of its own, which the test gives nothing but a server: it puts
    "localhost" and the port of a real remctld, which has tests/helpers/commands, in
    place of "foo.example.com" (and of the 4373 after it).  What ``print(...)  # TEXT``
    prints is TEXT.  With test functions, it is a module for pytest instead.
``console``
    What is typed after "$ " (and, where it goes on, "> "), and what comes then.  "..."
    stands for anything, also as a line.  All of a page's are one session of a shell,
    whose directory is empty in the beginning.
``sh``
    What installs the package: names of packages and scripts, which are compared.  And
    lines of ``python -m remctl``, which run.
``remctl.conf``
    A real remctld reads it.
``ini``
    A unit of systemd, or the like: it is parsed.

A block of any language whose first line is a comment with the name of a file, such as
``# disk.py``, is put there, for what follows on the page.
"""

from __future__ import annotations

import configparser
import os
import pydoc
import re
import select
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from blocks import BLOCKS, DOCS, ROOT, Block
from support import HANG, run_python, wait_until

import remctl.aio
import remctl.backend
import remctl.testing.aio
from remctl.testing import Server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from remctl.testing import Realm

HOST = '"foo.example.com"'
TEST = "def test_"

# What README.md's programs print when they run a command: they have no comments.
PRINTED = {
    '"test", "hello"': "hello world",
    '"test", "lines", 3': "line 3",
    ".status": "exit status: 0",
}

# What comes along with the packages that scripts/setup names.
DEPENDENCIES = {"libremctl1"}


def each(language: str, *, tests: bool = False) -> pytest.MarkDecorator:
    """Run a test with each block in a language, but for files that a page runs."""
    values = [
        block
        for block in BLOCKS
        if block.language == language
        and (language != "python" or not block.file)
        and (TEST in block.text) == tests
    ]
    names = [f"{block.page}:{block.line}" for block in values]
    return pytest.mark.parametrize("block", values, ids=names)


@pytest.fixture(scope="session")
def program_env(
    realm: Realm, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """What the programs find: users' tickets, and an ssh that goes where it is told."""
    runtime, programs = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("bin")
    for name in ("alice", "bob"):
        realm.kinit(name, runtime / f"ccache-{name}")
    ssh = programs / "ssh"
    ssh.write_text(f"#!{sys.executable}\n{SSH}")
    ssh.chmod(0o755)
    path = os.pathsep.join([str(programs), os.environ["PATH"]])
    return {**os.environ, "RUNTIME_DIRECTORY": str(runtime), "PATH": path}


# ``ssh -W HOST:PORT GATEWAY``: standard input and output are the connection.
SSH = """\
import os, select, socket, sys
host, _, port = sys.argv[sys.argv.index("-W") + 1].rpartition(":")
server = socket.create_connection((host, int(port)))
ways = {0: server.fileno(), server.fileno(): 1}
while True:
    for readable in select.select(list(ways), [], [])[0]:
        data = os.read(readable, 65536)
        if not data:
            sys.exit()
        os.write(ways[readable], data)
"""


@each("python")
def test_program(
    block: Block, server: Server, program_env: dict[str, str], tmp_path: Path
) -> None:
    """It ends well, warns of nothing, and prints what it says."""
    here = f'"{server.host}", {server.port}'
    text = block.text.replace(f"{HOST}, 4373", here).replace(HOST, here)
    text = text.replace("foo.example.com:4373", f"{server.host}:{server.port}")
    program = tmp_path / "program.py"
    program.write_text(text, encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "-W", "error", program],
        # gevent needs the GIL, and would warn that it switches it on.
        env={**program_env, "PYTHON_GIL": "1"} if "gevent" in text else program_env,
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        timeout=HANG,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    if block.page == "README.md":
        expected = [line for source, line in PRINTED.items() if source in text]
        assert [line for line in expected if line not in result.stdout] == []
    else:
        expected = re.findall(r"^ *print\(.*\)  # (.*)$", text, re.MULTILINE)
        assert lines == expected
    assert expected


@each("python", tests=True)
def test_module(block: Block, tmp_path: Path) -> None:
    """Its tests pass, in a project that has nothing but this package's plugin."""
    (tmp_path / "test_block.py").write_text(block.text, encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-W", "error", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=HANG,
        check=False,
    )
    assert f"{block.text.count(TEST)} passed" in result.stdout


class Shell:
    """A shell that gets one command after the other, as from a terminal."""

    def __init__(self, directory: Path) -> None:
        """Start it in ``directory``, outside of the tests' realm."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith("KRB5")}
        path = os.pathsep.join([str(Path(sys.executable).parent), clean["PATH"]])
        self._process = subprocess.Popen(
            ["bash"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env={
                **clean,
                "PATH": path,
                "HOME": str(directory),
                "LC_ALL": "C.UTF-8",
                "COLUMNS": "80",
            },
            start_new_session=True,
        )

    def run(self, command: str) -> str:
        """Run a command, and return what it wrote; ``$?`` is for the next one."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        mark = b"=== that was all ===\n"
        ending = f"(status=$?; echo '{mark.decode().strip()}'; exit $status)"
        process.stdin.write(f"{command}\n{ending}\n".encode())
        process.stdin.flush()
        output = b""
        deadline = time.monotonic() + HANG
        while not output.endswith(mark):
            left = deadline - time.monotonic()
            ready = select.select([process.stdout], [], [], max(0, left))[0]
            data = os.read(process.stdout.fileno(), 65536) if ready else b""
            assert data, f"{command}: it hangs, or the shell has ended\n{output!r}"
            output += data
        return output[: -len(mark)].decode()

    def close(self) -> None:
        """End the shell, and whatever it has left."""
        with self._process as process:  # closes its input, and waits
            try:
                process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def typed(block: Block) -> list[tuple[str, str]]:
    """Return the commands of a console block, each with the output that it shows."""
    assert block.text.startswith("$ ")
    session: list[tuple[str, str]] = []
    for line in block.text.splitlines(keepends=True):
        if line.startswith("$ "):
            session.append((line[2:-1], ""))
            continue
        command, output = session[-1]
        if line.startswith("> ") and not output:
            session[-1] = f"{command}\n{line[2:-1]}", output
        else:
            session[-1] = command, output + line
    return session


def matches(output: str, shown: str) -> bool:
    """Whether it is what is shown."""
    pattern = ".*".join(
        map(re.escape, re.split(r"^\.\.\.\n|\.\.\.", shown, flags=re.MULTILINE))
    )
    return re.fullmatch(pattern, output, re.DOTALL) is not None


SESSIONS = sorted({block.page for block in BLOCKS if block.language == "console"})


@pytest.mark.parametrize("page", SESSIONS)
def test_session(page: str, tmp_path: Path) -> None:
    """Each command writes what the page shows, with the files that the page has."""
    with closing(Shell(tmp_path)) as shell:
        for block in BLOCKS:
            if block.page != page:
                continue
            if block.file:
                shell.run(f"cat >{block.file} <<'END OF FILE'\n{block.text}END OF FILE")
            elif block.language == "console":
                for command, shown in typed(block):
                    output = shell.run(command)
                    assert matches(output, shown), f"{command}\n{output}"


@pytest.fixture(scope="session")
def shell_server(realm: Realm) -> Iterator[Server]:
    """A server for the lines of ``python -m remctl``."""
    install = remctl.testing.Command("cat", stdin="last")
    with realm.server({"test hello": "echo", "cert install": install}) as server:
        yield server


@each("sh")
def test_shell(block: Block, shell_server: Server, tmp_path: Path) -> None:
    """The packages are what scripts/setup installs, scripts are there, commands run."""
    setup = (ROOT / "scripts/setup").read_text()
    noxfile = (ROOT / "noxfile.py").read_text()
    known = {*re.findall(r"[\w.+-]+", setup), *DEPENDENCIES}
    project = (ROOT / "pyproject.toml").read_text()
    section = project.partition("[project.optional-dependencies]\n")[2]
    extras = re.findall(r"^(\w+) = \[", section.partition("\n\n")[0], re.MULTILINE)
    for line in block.text.splitlines():
        words = line.partition("  #")[0].split()
        if words[:2] == ["apt", "install"]:
            assert set(words[2:]) <= known
        elif words[0] == "apt":
            assert words == ["apt", "update"]
        elif words[:3] == ["python3", "-m", "venv"]:
            (directory,) = words[3:]
        elif words[0] == ".":
            assert words[1:] == [f"{directory}/bin/activate"]
        elif words[:3] == ["pip", "install", "."]:
            assert words[3:] == []
        elif words[:2] == ["pip", "wheel"]:
            assert '"pip", "wheel", "--quiet", "--no-deps"' in noxfile
            assert words[2:] == ["--no-deps", "."]
        elif words[:2] == ["pip", "install"]:
            wanted, *others = words[2:]
            assert set(others) <= {"pytest"}
            match = re.fullmatch(r"'\.\[(\w+)\]'", wanted)
            assert match
            assert match[1] in extras
        elif words[:3] == ["python", "-m", "remctl"]:
            (tmp_path / "key.pem").touch()
            words[:3] = [sys.executable, *words[1:3], "-p", str(shell_server.port)]
            hosts = [re.sub(r"\w+\.example\.com", "localhost", word) for word in words]
            subprocess.run(hosts, cwd=tmp_path, timeout=HANG, check=True)
        else:
            (script,) = words
            assert script.startswith("scripts/")
            assert os.access(ROOT / script, os.X_OK)


class ConfiguredServer(Server):
    """A remctld with a remctl.conf that is given as text."""

    text = ""

    def _configure(self) -> None:
        (self._files() / "remctl.conf").write_text(self.text, encoding="utf-8")


@each("remctl.conf")
def test_remctl_conf(block: Block, realm: Realm) -> None:
    """A real remctld starts with it."""
    server = ConfiguredServer(realm, {}, address="127.0.0.1")
    server.text = block.text
    with server:
        wait_until(server.log.exists)


@each("ini")
def test_ini(block: Block) -> None:
    """It has sections and values."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.read_string(block.text)
    assert parser.sections()


def test_help_fits_a_screen() -> None:
    """What there is, and an example that runs, before all that pydoc knows."""
    screen = pydoc.plain(pydoc.render_doc(remctl)).splitlines()[:23]
    text = "\n".join(screen)
    assert "PACKAGE CONTENTS" not in text
    assert all(re.search(rf"\b{name}\b", text) for name in remctl.__all__[1:-2])
    assert all(f"remctl.{name} " in text for name in ("aio", "testing", "backend"))


def test_example_of_help(server: Server) -> None:
    """With a real server in place of the one that it names."""
    assert remctl.__doc__
    example, _, _ = remctl.__doc__.partition("    remctl.aio ")
    lines = [line[4:] for line in example.splitlines() if line.startswith("    ")]
    program = "\n".join(lines).replace(HOST, f'"{server.host}", {server.port}')
    result = run_python(program)
    assert (result.stdout, result.stderr) == ("hello world\n\n", "")


def test_both_interfaces_are_shown() -> None:
    """README.md has one block at least for each, and names the scripts."""
    readme = [block for block in BLOCKS if block.page == "README.md"]
    programs = [block.text for block in readme if block.language == "python"]
    assert any("remctl.remctl(" in program for program in programs)
    assert any("remctl.Remctl(" in program for program in programs)
    scripts = "".join(block.text for block in readme if block.language == "sh")
    assert {"scripts/demo", "scripts/test"} <= set(re.findall(r"scripts/\S+", scripts))


MODULES = {
    remctl: "remctl",
    remctl.aio: "aio",
    remctl.backend: "backend",
    remctl.testing: "testing",
    remctl.testing.aio: "testing",
}


@pytest.mark.parametrize("module", MODULES)
def test_reference_is_complete(module: ModuleType) -> None:
    """Every public name has its place there."""
    page = DOCS / "reference" / f"{MODULES[module]}.md"
    shown = re.findall(rf":: {module.__name__}\.(\w+)$", page.read_text(), re.MULTILINE)
    assert sorted(shown) == sorted(module.__all__)
