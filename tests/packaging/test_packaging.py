# SPDX-License-Identifier: MIT
"""What is shipped, under which names, and how the extension is built."""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support import run_python

import remctl
import remctl._remctl_cffi
import remctl.aio
import remctl.backend
import remctl.testing
import remctl.testing.aio
from remctl import _remctl

ROOT = Path(__file__).parent.parent.parent
(VERSION,) = re.findall(
    r'^__version__ = "(.*)"$', (ROOT / "remctl/__init__.py").read_text(), re.MULTILINE
)
DISTRIBUTION = importlib.metadata.distribution("remctl-cffi")

# What libremctl has and the low-level interface has not.
LEFT_OUT = {
    "remctl_open_addrinfo": "addresses are tried in Python, where Ctrl-C ends it",
    "remctl_open_fd": "Remctl.open(sock=...) is its safe form",
    "remctl_open_sockaddr": "addresses are tried in Python, where Ctrl-C ends it",
    "remctl_result_free": "results are Python's own",
}


def compiler(*options: str) -> str:
    """Return what the C compiler prints for a program that includes remctl.h."""
    return subprocess.run(
        ["cc", *options, "-x", "c", "-"],
        input="#include <remctl.h>\n",
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout


def run(directory: Path, *command: object, **environment: object) -> Any:
    """Run this Python in ``directory``, with little else than ``environment``."""
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=directory,
        env={
            "PATH": os.environ["PATH"],
            "CFLAGS": "-O0",
            **{name: str(value) for name, value in environment.items()},
        },
        capture_output=True,
        text=True,
        check=False,
    )


def program(path: Path, script: str) -> Path:
    """Write a shell script to ``path``."""
    path.write_text("#!/bin/sh\n" + script)
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked source distribution of this repository."""
    directory = tmp_path_factory.mktemp("sdist")
    clone = directory / "clone"
    hidden = shutil.ignore_patterns(".*", "__pycache__", "build", "*.so")
    shutil.copytree(ROOT, clone, ignore=hidden)
    result = run(clone, "setup.py", "-q", "sdist", "--dist-dir", directory)
    assert result.returncode == 0, result.stderr
    (archive,) = directory.glob("*.tar.gz")
    subprocess.run(["tar", "-xf", archive, "-C", directory], check=True)
    return directory / archive.name[: -len(".tar.gz")]


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that this Python builds from the source distribution."""
    directory = tmp_path_factory.mktemp("wheel")
    source = shutil.copytree(sdist, directory / "source")
    command = ["-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "."]
    result = run(source, *command, "--wheel-dir", directory)
    assert result.returncode == 0, result.stderr
    (found,) = directory.glob("*.whl")
    return found


@pytest.fixture
def source(sdist: Path, tmp_path: Path) -> Path:
    """A copy of the source distribution of one's own, to build in."""
    return Path(shutil.copytree(sdist, tmp_path / "source"))


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """A prefix with libremctl, told from the system's by a port in its header."""
    (tmp_path / "include").mkdir()
    (tmp_path / "lib").mkdir()
    (header, *_) = re.findall(
        '^# [0-9]+ "(/.*/remctl.h)"', compiler("-E"), re.MULTILINE
    )
    text = Path(header).read_text()
    text, count = re.subn("(REMCTL_PORT +)4373", r"\g<1>14373", text)
    assert count == 1
    (tmp_path / "include" / "remctl.h").write_text(text)
    library = Path(compiler("-print-file-name=libremctl.so").strip()).resolve()
    # Under the name that programs look for at run time, and that of the linker.
    soname = ".".join(library.name.split(".")[:3])
    shutil.copy(library, tmp_path / "lib" / soname)
    (tmp_path / "lib" / "libremctl.so").symlink_to(soname)
    return tmp_path


def test_version_is_the_changelogs_newest() -> None:
    """The project's version is the newest release; the changelog is in order."""
    changelog = (ROOT / "CHANGELOG.md").read_text()
    titles = re.findall(r"^## (.*)$", changelog, re.MULTILINE)
    if titles[0] == "[Unreleased]":
        del titles[0]
    found = [
        re.fullmatch(r"\[(\d+)\.(\d+)\.(\d+)\] - (\d{4}-\d\d-\d\d)", title)
        for title in titles
    ]
    releases = [match.groups() for match in found if match is not None]
    assert len(releases) == len(titles) > 0
    versions = [tuple(map(int, release[:3])) for release in releases]
    assert versions == sorted(set(versions), reverse=True)
    dates = [release[3] for release in releases]
    assert dates == sorted(dates, reverse=True)
    assert ".".join(releases[0][:3]) == VERSION


def test_version_is_the_installed_one() -> None:
    """S49: as __version__ and VERSION; tests run on what is in the tree."""
    assert remctl.__version__ == DISTRIBUTION.version == VERSION
    assert remctl.VERSION == _remctl.VERSION == VERSION


def test_files_of_the_wheel(wheel: Path) -> None:
    """S53: types and the alias are shipped; sources of the extension are not."""
    files = set(zipfile.ZipFile(wheel).namelist())
    assert {"_remctl/py.typed", "remctl/py.typed", "remctl/_remctl_cffi.pyi"} <= files
    assert {"remctl/_pytest_plugin.py", "remctl/testing/__main__.py"} <= files
    assert not [name for name in files if "shim" in name or "build_remctl" in name]


def test_only_cffi_is_needed_at_run_time() -> None:
    """PyPy brings its own."""
    needed = [line for line in DISTRIBUTION.requires or [] if "extra" not in line]
    (cffi,) = needed
    assert re.match("cffi *>=", cffi)
    assert re.search("platform_python_implementation *!= *.PyPy", cffi)


def test_extra_and_plugin_for_tests() -> None:
    """remctl-cffi[testing] brings k5test; pytest finds the plugin by itself."""
    lines = [line.replace("'", '"') for line in DISTRIBUTION.requires or []]
    needed = [line for line in lines if 'extra == "testing"' in line]
    assert [line.partition(";")[0].strip() for line in needed] == ["k5test"]
    (plugin,) = (e for e in DISTRIBUTION.entry_points if e.group == "pytest11")
    assert (plugin.name, plugin.value) == ("remctl", "remctl._pytest_plugin")


def test_extension_serves_all_versions(wheel: Path) -> None:
    """One abi3 wheel serves CPython 3.9 and later; others have their own."""
    files = zipfile.ZipFile(wheel).namelist()
    (name,) = (file for file in files if file.endswith(".so"))
    tag = "-".join(wheel.stem.split("-")[2:])
    if sys.implementation.name == "pypy":
        assert (".pypy" in name, tag[:2]) == (True, "pp")
    elif sysconfig.get_config_var("Py_GIL_DISABLED"):
        version = "cp{}{}".format(*sys.version_info)
        suffix = re.escape(sysconfig.get_config_var("EXT_SUFFIX"))
        # From 3.15 on, they have a limited API of their own, abi3t.
        assert re.fullmatch(rf"remctl/_remctl_cffi({suffix}|\.abi3t\S*\.so)", name)
        assert tag.startswith(f"{version}-{version}t-")
    else:
        assert (name, tag[:10]) == ("remctl/_remctl_cffi.abi3.so", "cp39-abi3-")


@pytest.mark.parametrize("module", [remctl, remctl.backend, remctl.testing])
def test_all_is_complete(module: ModuleType) -> None:
    """S1: what has no underscore is in __all__."""
    public = {
        name
        for name in dir(module)
        if not name.startswith("_")
        and name != "annotations"
        and not isinstance(getattr(module, name), ModuleType)
    }
    assert sorted(set(module.__all__) - {"__version__"}) == sorted(public)


def test_type_checkers_see_the_same_names() -> None:
    """What they are told is imported, or found by __getattr__, and no other name."""
    told = {
        alias.name
        for node in ast.walk(ast.parse(Path(remctl.__file__).read_text()))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    found = {*remctl.__all__, "_remctl", "aio", "backend", "testing"}
    found -= {"VERSION", "__version__"}
    helpers = {"_client", "_exceptions", "_pool", "_results", "import_module"}
    assert told == found | helpers


def test_names_are_imported_when_used() -> None:
    """The client is not loaded before; dir(), * and unknown names are as ever."""
    script = """
        import pydoc, sys
        import remctl as package
        loaded = [name for name in sys.modules if name.startswith("remctl.")]
        assert not loaded and "_cffi_backend" not in sys.modules, loaded
        assert set(package.__all__) <= set(dir(package))
        assert "Remctl" not in vars(package)
        assert package.Remctl is package.Remctl is not package.aio.Remctl
        assert "Remctl" in vars(package)
        from remctl import *
        assert all(globals()[name] is vars(package)[name] for name in package.__all__)
        assert "set_source_ip" in pydoc.plain(pydoc.render_doc(package))
        try:
            package.nonsense
        except AttributeError as error:
            print(error)
        """
    result = run_python(script)
    expected = "module 'remctl' has no attribute 'nonsense'\n"
    assert (result.stdout, result.stderr) == (expected, "")


def test_names_are_imported_by_many_threads() -> None:
    """At the same time, and while the asyncio twin imports what is behind them."""
    script = """
        import threading, remctl
        start, found = threading.Barrier(9), []
        def use(name):
            start.wait()
            found.append(getattr(remctl, name))
        def use_twin():
            start.wait()
            import remctl.aio
        threads = [threading.Thread(target=use_twin)]
        for name in ["Remctl", "RemctlError"] * 4:
            threads.append(threading.Thread(target=use, args=[name]))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 8 and set(found) == {remctl.Remctl, remctl.RemctlError}
        """
    result = run_python(script)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    "command", [["-c", "import remctl; remctl.Remctl"], ["-m", "remctl", "a", "b"]]
)
def test_without_the_library(command: list[str], tmp_path: Path) -> None:
    """One that is not there any more: the last line names it, -m prints no other."""
    package = Path(remctl.__file__).parent
    shutil.copytree(package, tmp_path / "remctl")
    extension = tmp_path / "remctl" / Path(remctl._remctl_cffi.__file__).name
    linked = extension.read_bytes()
    assert linked.count(b"libremctl.so.1") == 1
    extension.write_bytes(linked.replace(b"libremctl.so.1", b"libremctl.so.9"))
    result = run(tmp_path, *command)
    assert result.returncode == 1
    *others, last = result.stderr.splitlines()
    assert bool(others) == ("-c" in command)
    assert re.match("(remctl|ImportError): libremctl.so.9: cannot open shared", last)


@pytest.mark.parametrize(
    "module",
    [
        remctl,
        remctl.aio,
        _remctl,
        remctl.backend,
        remctl.testing,
        remctl.testing.aio,
    ],
)
def test_public_names_have_docstrings(module: ModuleType) -> None:
    """Functions, classes, their methods and properties, inherited ones too."""
    described: dict[str, object] = {module.__name__: module}
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isfunction(value) or inspect.isclass(value):
            described[name] = value
        if inspect.isclass(value):
            described.update(
                (f"{base.__name__}.{member}", attribute)
                for base in value.__mro__
                if base.__module__.startswith("remctl")
                for member, attribute in vars(base).items()
                if not member.startswith("_")
                and (inspect.isfunction(attribute) or isinstance(attribute, property))
            )
    assert len(described) > len(module.__all__) / 2
    for name, value in described.items():
        text = value.__doc__ or ""
        # Dataclasses and named tuples get their signature where they have none.
        assert len(text) > 10 and not text.startswith(f"{name}("), name


def test_every_c_function_is_offered_or_left_out() -> None:
    """S49: the names that the system's remctl.h declares."""
    declared = set(re.findall(r"\b(remctl\w*) *\(", compiler("-E", "-P")))
    offered = {name for name in _remctl.__all__ if name.islower()}
    assert declared == offered | set(LEFT_OUT)
    assert not offered & set(LEFT_OUT)


def test_every_c_constant_is_offered() -> None:
    """S49: the names and values that the system's remctl.h defines."""
    macros = re.findall(
        r"^#define (REMCTL_\w+) (.+)$", compiler("-E", "-dM"), re.MULTILINE
    )
    defined = {name: value.strip('"') for name, value in macros if name != "REMCTL_H"}
    enumerators = re.findall(r"\bREMCTL_OUT_\w+", compiler("-E", "-P"))
    defined.update((name, str(value)) for value, name in enumerate(enumerators))
    assert len(enumerators) >= 4
    assert defined == {
        name: str(getattr(_remctl, name))
        for name in _remctl.__all__
        if name.startswith("REMCTL_")
    }


def test_sdist_has_what_the_repository_has(sdist: Path) -> None:
    """The builder, the tests, the scripts and the documents."""
    names = ["build_remctl.py", "setup.py", "CHANGELOG.md", "README.md", "LICENSE"]
    names += ["noxfile.py", "CONTRIBUTING.md", "SECURITY.md"]
    for directory in (
        "_remctl",
        "remctl",
        "tests",
        "scripts",
        "examples",
        "benchmarks",
    ):
        for path in (ROOT / directory).rglob("*"):
            name = str(path.relative_to(ROOT))
            if path.is_file() and not re.search(r"/\.|__pycache__|\.so$", name):
                names.append(name)
    assert "remctl/_shim.c" in names
    assert [name for name in names if not (sdist / name).is_file()] == []


# The compiler, hiding from itself what is there on this machine.
HIDING = """
for argument do
    shift
    case $argument in
        {hidden}
    esac
    set -- "$@" "$argument"
done
exec cc "$@"
"""
HEADER = """*.c) sed -i 's/<remctl.h>/<no-such-remctl.h>/' "$argument" ;;"""
LIBRARY = "-lremctl) argument=-lno-such-remctl ;;"


@pytest.mark.parametrize(
    "command", [["build_remctl.py"], ["setup.py", "-q", "build_ext"]]
)
@pytest.mark.parametrize(
    "hidden", [HEADER, LIBRARY, None], ids=["header", "library", "compiler"]
)
def test_build_says_what_is_missing(
    source: Path, hidden: str | None, command: list[str]
) -> None:
    """Without header, library or compiler: one sentence, naming the packages."""
    wrapper = source / "cc"
    if hidden is not None:
        program(wrapper, HIDING.format(hidden=hidden))
    result = run(source, *command, CC=wrapper)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.count("\n") == result.stderr.count(". ") + 1 == 1
    for package in ("libremctl-dev", "Debian", "remctl-devel", "Fedora", "Homebrew"):
        assert package in result.stderr
    for package in ("python3-dev", "pypy3-dev", "python3-devel"):
        assert package in result.stderr
    assert not list(source.rglob("_remctl_cffi*.so"))


@pytest.mark.parametrize(
    "command", [["build_remctl.py"], ["setup.py", "-q", "build_ext"]]
)
def test_build_says_that_the_library_is_too_old(
    source: Path, prefix: Path, command: list[str]
) -> None:
    """One without remctl_open_fd(): one sentence, naming the version."""
    header = prefix / "include" / "remctl.h"
    text = header.read_text()
    older = re.sub(r"int remctl_open_fd\([^;]*;", "", text)
    assert older != text
    header.write_text(older)
    result = run(
        source,
        *command,
        REMCTL_INCLUDE_DIR=prefix / "include",
        REMCTL_LIB_DIR=prefix / "lib",
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("remctl-cffi needs libremctl 3.8 or newer, and")
    assert result.stderr.count("\n") == 1
    assert not list(source.rglob("_remctl_cffi*.so"))


# What a front end asks of the build backend, and its own form of it.
HOOK = "from setuptools import build_meta; build_meta."
PIP = "-m pip install --dry-run --ignore-installed --no-index --no-deps "
WITHOUT_COMPILING = {
    "requirements": ["-c", f"{HOOK}get_requires_for_build_wheel()"],
    "metadata": ["-c", f"{HOOK}prepare_metadata_for_build_wheel('.')"],
    "sdist": ["-c", f"{HOOK}build_sdist('.')"],
    "setup.py sdist": ["setup.py", "sdist", "--dist-dir", "."],
    "pip": [*PIP.split(), "--no-build-isolation", "."],
}


@pytest.mark.parametrize("what", WITHOUT_COMPILING)
def test_only_compiling_needs_the_library(source: Path, what: str) -> None:
    """Lock files, say, are made on machines without it, or without a compiler."""
    result = run(
        source,
        *WITHOUT_COMPILING[what],
        CC="/nonexistent/cc",
        PKG_CONFIG="/nonexistent/pkg-config",
        REMCTL_INCLUDE_DIR="/nonexistent",
        REMCTL_LIB_DIR="/nonexistent",
    )
    assert result.returncode == 0, result.stderr
    if what == "metadata":
        (metadata,) = source.glob("*.dist-info/METADATA")
        assert f"\nVersion: {VERSION}\n" in metadata.read_text()
    if "sdist" in what:
        assert (source / f"remctl_cffi-{VERSION}.tar.gz").is_file()
    if what == "pip":
        assert f"Would install remctl-cffi-{VERSION}" in result.stdout
    assert not list(source.rglob("_remctl_cffi*.so"))


@pytest.mark.parametrize(
    ("pkg_config", "directories"),
    [(False, False), (True, False), (False, True)],
    ids=["nothing", "pkg-config", "environment"],
)
def test_build_finds_the_library(
    source: Path, prefix: Path, pkg_config: bool, directories: bool
) -> None:
    """By pkg-config or the environment; the system's where neither says anything."""
    environment: dict[str, object] = {"PKG_CONFIG": "/nonexistent/pkg-config"}
    if pkg_config:
        environment["PKG_CONFIG"] = program(
            prefix / "pkg-config",
            f"""test "$2" = libremctl || exit 1
            case $1 in
                --cflags) echo -I{prefix}/include ;;
                --libs) echo -L{prefix}/lib -Wl,-rpath,{prefix}/lib -lremctl ;;
            esac
            """,
        )
    if directories:
        environment["REMCTL_INCLUDE_DIR"] = prefix / "include"
        environment["REMCTL_LIB_DIR"] = prefix / "lib"
    result = run(source, "setup.py", "-q", "build_ext", "--inplace", **environment)
    assert result.returncode == 0, result.stderr
    look = """
        import re, pathlib, remctl._remctl_cffi as built
        print(built.__file__, built.lib.REMCTL_PORT)
        maps = pathlib.Path("/proc/self/maps").read_text()
        print(*sorted(set(re.findall("/.*/libremctl.so.*", maps))))
        """
    result = run(source, "-c", inspect.cleandoc(look))
    built, library = result.stdout.splitlines()
    ours = pkg_config or directories
    extension, port = built.split()
    assert Path(extension).parent == source / "remctl"
    assert port == ("14373" if ours else "4373")
    assert (Path(library).parent == prefix / "lib") == ours
