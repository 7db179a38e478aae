# SPDX-License-Identifier: MIT
"""Where it is imported: without metadata, in one program, at the interpreter's exit.

And by which names: those that users import are in tracebacks and pickles, too.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import graphlib
import importlib
import inspect
import modulefinder
import pickle
import pkgutil
import shutil
import socket
import sys
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
from support import run_python

import remctl
from remctl import ErrorCode, Stream

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from remctl.testing import Server

# Found by looking, so that none is forgotten; remctl.cli is a program.
PUBLIC = ["remctl", "remctl._remctl"] + [
    module.name
    for module in pkgutil.walk_packages(remctl.__path__, "remctl.")
    if "._" not in module.name and module.name != "remctl.cli"
]
NAMES = [
    (module, name)
    for module in PUBLIC
    for name in importlib.import_module(module).__all__
    if inspect.isroutine(value := getattr(sys.modules[module], name))
    or inspect.isclass(value)
]

RESULT = remctl.RemctlSimpleResult(b"a", None, 3)
VALUES = [
    remctl.RemctlError("a"),
    remctl.RemctlNotOpenedError("a"),
    remctl.RemctlProtocolError("Unknown command", ErrorCode.UNKNOWN_COMMAND),
    remctl.RemctlTimeoutError("late"),
    remctl.RemctlStatusError(RESULT),
    remctl.RemctlOutput("output", b"o", Stream.STDERR),
    remctl.remctl,
    remctl.Remctl,
]

# Some of them, as 1.0.0 pickled them.
OF_1_0_0 = (
    b"\x80\x04\x95y\x01\x00\x00\x00\x00\x00\x00]\x94(\x8c\x12remctl._exceptions\x94"
    b"\x8c\x13RemctlProtocolError\x94\x93\x94\x8c\x0fUnknown command\x94\x8c\x0frem"
    b"ctl._results\x94\x8c\tErrorCode\x94\x93\x94K\x05\x85\x94R\x94\x86\x94R\x94}"
    b"\x94(\x8c\x05value\x94h\x04\x8c\x04code\x94h\tubh\x01\x8c\x11RemctlStatusErro"
    b"r\x94\x93\x94h\x05\x8c\x12RemctlSimpleResult\x94\x93\x94)\x81\x94}\x94(\x8c"
    b"\x06stdout\x94C\x01a\x94\x8c\x06stderr\x94N\x8c\x06status\x94K\x03ub\x85\x94R"
    b"\x94}\x94(h\r\x8c\x1ccommand exited with status 3\x94\x8c\x06result\x94h\x13u"
    b"bh\x05\x8c\x0cRemctlOutput\x94\x93\x94(\x8c\x06output\x94C\x01o\x94h\x05\x8c"
    b"\x06Stream\x94\x93\x94K\x02\x85\x94R\x94NNt\x94\x81\x94\x8c\x0eremctl._client"
    b"\x94\x8c\x06remctl\x94\x93\x94h(\x8c\x06Remctl\x94\x93\x94e."
)


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port on which nothing listens, and nothing else will."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


def test_public_modules() -> None:
    """Those that the reference has, which is not much use if it is empty."""
    assert PUBLIC[2:] == [
        "remctl.aio",
        "remctl.backend",
        "remctl.testing",
        "remctl.testing.aio",
    ]
    assert len(NAMES) > 30


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_names_say_the_public_module(module: str, name: str) -> None:
    """And are found there by pickle; their source is never another's."""
    value = getattr(sys.modules[module], name)
    assert (value.__module__, value.__qualname__) == (module, name)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(value, protocol)) is value
    kind = "class" if inspect.isclass(value) else "def"
    with contextlib.suppress(OSError):  # "could not find class definition"
        assert f"{kind} {name}" in inspect.getsource(value)


def test_names_of_the_alias() -> None:
    """_remctl has those of remctl._remctl, which say so."""
    alias = importlib.import_module("_remctl")
    values = [getattr(alias, name) for name in alias.__all__]
    assert {v.__module__ for v in values if callable(v)} == {"remctl._remctl"}


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_pickles_have_public_names(value: object) -> None:
    """No private module is in them, so that these may change."""
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        pickled = pickle.dumps(value, protocol)
        assert b"remctl" in pickled and b"remctl._" not in pickled
        again = pickle.loads(pickled)
        assert type(again) is type(value) and str(again) == str(value)


def test_pickles_of_1_0_0() -> None:
    """They have the names of private modules."""
    assert b"remctl._results" in OF_1_0_0
    protocol, status, token, function, client = pickle.loads(OF_1_0_0)
    assert type(protocol) is remctl.RemctlProtocolError
    assert (str(protocol), protocol.code) == ("Unknown command", 5)
    assert protocol.code is ErrorCode.UNKNOWN_COMMAND
    assert type(status) is remctl.RemctlStatusError
    assert (str(status), status.result) == ("command exited with status 3", RESULT)
    assert token == VALUES[5] and token.stream is Stream.STDERR
    assert (function, client) == (remctl.remctl, remctl.Remctl)


def test_types_of_results() -> None:
    """Other libraries read them at run time, by the name of the module."""
    kind = Literal["output", "status", "error", "done"]
    fields = dataclasses.fields(remctl.RemctlSimpleResult)
    assert [field.name for field in fields] == ["stdout", "stderr", "status"]
    if sys.version_info >= (3, 10):  # else there is no bytes | None
        hints: dict[str, Any] = typing.get_type_hints(remctl.RemctlOutput)
        assert hints.pop("type") == kind
        assert hints == {
            "output": typing.Optional[bytes],
            **dict.fromkeys(["stream", "status", "error"], typing.Optional[int]),
        }
        hints = typing.get_type_hints(remctl.RemctlSimpleResult)
        assert (hints["stdout"], hints["status"]) == (typing.Optional[bytes], int)


# Each takes as long to import as a good part of the client.
HEAVY = {
    "argparse",
    "ast",
    "asyncio",
    "dataclasses",
    "encodings.idna",
    "inspect",
    "ipaddress",
    "json",
    "logging",
    "random",
    "re",
    "socket",
    "typing",
}


def test_what_the_client_imports() -> None:
    """Cron jobs and command lines pay for it every time."""
    result = run_python(
        """
        import sys, threading  # PyPy's own brings re
        before = set(sys.modules)  # an editable install has imported much of it
        from remctl import Remctl
        print(*(set(sys.modules) - before))
        """
    )
    assert result.stderr == ""
    new = set(result.stdout.split())
    assert {"remctl._client", "remctl._results"} <= new
    assert not new & HEAVY


@pytest.mark.parametrize("module", PUBLIC[1:])
def test_submodules_are_found(module: str) -> None:
    """Like the other names; dir() has them, and `import *` brings none."""
    result = run_python(
        f"""
        import sys
        import remctl
        package, _, name = {module!r}.rpartition(".")
        package = eval(package)  # remctl.testing is found here, too
        assert {module!r} not in sys.modules
        assert name in dir(package)
        assert getattr(package, name) is sys.modules[{module!r}]
        scope = {{}}
        exec(f"from {{package.__name__}} import *", scope)
        assert scope.keys() - {{"__builtins__"}} == set(package.__all__)
        exec(f"from {{package.__name__}} import {{name}}", scope)
        assert scope[name] is sys.modules[{module!r}]
        try:
            package.nonsense
        except AttributeError as error:
            print(error)
        """
    )
    package = module.rpartition(".")[0]
    expected = f"module {package!r} has no attribute 'nonsense'\n"
    assert (result.stdout, result.stderr) == (expected, "")


def test_all_names_by_many_threads() -> None:
    """At the same time, each beginning with another one, submodules among them."""
    result = run_python(
        """
        import sys, threading, remctl
        sys.setswitchinterval(1e-6)
        names = [*remctl.__all__, "aio", "testing", "backend", "_remctl"]
        start, found = threading.Barrier(len(names)), []
        def use(i):
            start.wait()
            for name in names[i:] + names[:i]:
                found.append((name, id(getattr(remctl, name))))
        threads = [threading.Thread(target=use, args=[i]) for i in range(len(names))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == len(names) ** 2 and len(set(found)) == len(names), found
        """
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_what_a_user_has_put_there_stays() -> None:
    """A test's fake, say, while another name is used for the first time."""
    result = run_python(
        """
        import remctl
        remctl.Remctl = "fake"
        print(remctl.RemctlError("a"), remctl.Remctl)
        """
    )
    assert (result.stdout, result.stderr) == ("a fake\n", "")


@pytest.mark.parametrize("used", ["remctl.Remctl", "remctl.aio", "remctl.ErrorCode"])
def test_names_at_the_interpreters_exit(server: Server, used: str) -> None:
    """All are there when one was used before, and a command still runs."""
    result = run_python(
        """
        import atexit, sys, remctl
        class Last:
            def __del__(self):
                try:
                    # Not Stage, which is a type: typing is imported for it.
                    names = set(remctl.__all__) - {"Stage"}
                    late = [getattr(remctl, name) for name in names]
                    print(remctl.remctl(host, port, command=["test", "hello"]).stdout)
                except BaseException as error:
                    print(repr(error))
        last = Last()
        host, port = sys.argv[1:3]
        eval(sys.argv[3])
        if sys.implementation.name == "pypy":  # which finalizes nothing at its exit
            atexit.register(last.__del__)
        """,
        server.host,
        server.port,
        used,
    )
    assert (result.stdout, result.stderr) == ("b'hello world\\n'\n", "")


def test_without_metadata(tmp_path: Path) -> None:
    """As in a program that brings a copy of the package: the version is there."""
    package = Path(remctl.__file__).parent
    for name in ("remctl", "_remctl"):
        shutil.copytree(package.parent / name, tmp_path / name)
    result = run_python(
        """
        import importlib.metadata, runpy, sys
        import _cffi_backend  # from where the metadata is, too
        others = [path for path in sys.path[1:] if "site-packages" not in path]
        sys.path[:] = [sys.argv[1], *others]
        try:
            importlib.metadata.version("remctl-cffi")
        except importlib.metadata.PackageNotFoundError:
            print("no metadata")
        import _remctl, remctl
        assert remctl.__file__.startswith(sys.argv[1]), remctl.__file__
        print(_remctl.VERSION, remctl.VERSION, remctl.__version__, flush=True)
        sys.argv[1:] = ["-v"]
        runpy.run_module("remctl", run_name="__main__")
        """,
        tmp_path,
    )
    version = remctl.__version__
    expected = f"no metadata\n{version} {version} {version}\nremctl-cffi {version}\n"
    assert (result.stdout, result.stderr) == (expected, "")


def test_from_an_archive(tmp_path: Path) -> None:
    """What needs no extension works from a zip file: backend programs, the version."""
    package = Path(remctl.__file__).parent
    without = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(package, tmp_path / "tree" / "remctl", ignore=without)
    archive = shutil.make_archive(str(tmp_path / "program"), "zip", tmp_path / "tree")
    result = run_python(
        """
        import sys
        sys.path.insert(0, sys.argv[1])
        import remctl
        print(remctl.VERSION, remctl.backend.Backend.__module__)
        assert remctl.__file__.startswith(sys.argv[1])
        """,
        archive,
    )
    expected = f"{remctl.VERSION} remctl.backend\n"
    assert (result.stdout, result.stderr) == (expected, "")


def test_scanners_see_what_is_imported(tmp_path: Path) -> None:
    """PyInstaller and the like read the byte code; they cannot read the extension."""
    program = tmp_path / "program.py"
    program.write_text("import remctl\n")
    # Not the standard library, which takes long.
    finder = modulefinder.ModuleFinder([str(Path(remctl.__file__).parent.parent)])
    finder.run_script(str(program))
    seen = {*finder.modules, *finder.badmodules}
    assert {"_cffi_backend", "remctl._remctl_cffi", *PUBLIC} <= seen
    ours = {name for name in finder.badmodules if name.startswith("remctl.")}
    assert not ours & {name for name in sys.modules if sys.modules[name]}


BLOCKING = "remctl.remctl(host, int(port), command=command, timeout=timeout)"
TWIN = (
    "asyncio.run(remctl.aio.remctl(host, int(port), command=command, timeout=timeout))"
)
METHOD = "remctl.Remctl(host, int(port), timeout=timeout).run(command)"


def uncaught(call: str, host: str, port: int, *command: str) -> list[str]:
    """Return the standard error of a program in which only ``call`` fails."""
    result = run_python(
        f"""
        import asyncio, sys
        import remctl
        host, port, *command = sys.argv[1:]
        timeout = 2
        {call}
        """,
        host,
        port,
        *command,
    )
    assert (result.returncode, result.stdout) == (1, "")
    return result.stderr.splitlines()


def check_traceback(lines: list[str], text: str, name: str) -> None:
    """It is one traceback, with the text at its end, and the public name."""
    assert lines[-1].startswith(f"remctl.{name}: {text}")
    assert "\n".join(lines).count(text) == 1
    assert sum(line.startswith("Traceback") for line in lines) == 1


@pytest.mark.parametrize("call", [BLOCKING, TWIN, METHOD])
def test_traceback_of_a_refused_connection(closed_port: int, call: str) -> None:
    """The text is shown once."""
    lines = uncaught(call, "127.0.0.1", closed_port, "test", "hello")
    text = f"cannot connect to 127.0.0.1 (port {closed_port}): Connection refused"
    name = "RemctlError" if call is METHOD else "RemctlProtocolError"
    check_traceback(lines, text, name)
    # The cause, of which there is only this line.
    assert lines[0] == "ConnectionRefusedError: [Errno 111] Connection refused"


@pytest.mark.parametrize("call", [BLOCKING, TWIN, METHOD])
def test_traceback_of_a_server_error(server: Server, call: str) -> None:
    """So is the server's."""
    lines = uncaught(call, server.host, server.port, "no", "such")
    check_traceback(lines, "Unknown command", "RemctlProtocolError")


@pytest.mark.parametrize("call", [BLOCKING, TWIN, METHOD])
def test_traceback_of_a_silent_server(server: Server, call: str) -> None:
    """So is that of a time-out."""
    lines = uncaught(call, server.host, server.port, "test", "sleep", "10")
    check_traceback(lines, "error receiving token: timed out", "RemctlTimeoutError")


@pytest.mark.parametrize("call", [BLOCKING, TWIN, METHOD])
def test_traceback_without_tickets(
    server: Server, call: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And the one of GSS-API, which is not the server's."""
    monkeypatch.setenv("KRB5CCNAME", f"FILE:{tmp_path}/none")
    lines = uncaught(call, server.host, server.port, "test", "hello")
    name = "RemctlError" if call is METHOD else "RemctlProtocolError"
    text = lines[-1].partition(": ")[2]
    assert text.startswith("GSS-API error")
    check_traceback(lines, text, name)


@pytest.mark.parametrize("twin", ["blocking", "asyncio"])
def test_cause_is_not_the_same_error_again(closed_port: int, twin: str) -> None:
    """Handlers that look at it find the reason, if anything."""
    call = remctl.remctl
    if twin == "asyncio":
        asyncio = importlib.import_module("asyncio")

        def call(*arguments: Any, **options: Any) -> Any:
            return asyncio.run(remctl.aio.remctl(*arguments, **options))

    with pytest.raises(remctl.RemctlProtocolError) as caught:
        call("127.0.0.1", closed_port, command=["test"])
    assert not isinstance(caught.value.__cause__, remctl.RemctlError)
    assert caught.value.__suppress_context__


def imported(nodes: Iterable[ast.AST], *, types: bool) -> Iterator[str]:
    """Yield the names that are imported; names from a module as MODULE.NAME."""
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from imported(node.body if types else node.orelse, types=types)
        else:
            yield from imported(ast.iter_child_nodes(node), types=types)


@pytest.mark.parametrize("types", [False, True], ids=["run time", "types"])
def test_no_module_imports_itself_through_others(types: bool) -> None:
    """Imports go in one direction; only realms and servers name each other's type.

    remctl itself is left out: it imports nothing before a name is used.
    """
    root = Path(remctl.__file__).parent
    sources = {
        ".".join(path.relative_to(root.parent).with_suffix("").parts): path.read_text()
        for path in root.rglob("*.py")
        if path != root / "__init__.py"
    }
    modules = {name.removesuffix(".__init__"): text for name, text in sources.items()}
    graph = {
        name: {
            each if each in modules else each.rpartition(".")[0]
            for each in imported([ast.parse(text)], types=types)
        }
        & set(modules)
        for name, text in modules.items()
    }
    if types:
        graph["remctl.testing._server"].remove("remctl.testing._realm")
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert len(order) == len(modules) > 30
