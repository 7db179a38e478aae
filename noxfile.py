# SPDX-License-Identifier: MIT
"""What is run for this project, each session in an environment of its own.

    nox --list                        the sessions
    nox -s tests-3.11                 one of them, and what it requires
    nox -s tests-pypy3 -- -k signal   arguments after -- go to pytest
    nox -t soak                       the sessions with a tag

The sessions test the wheels that ``build`` makes, never the source in the clone.
``scripts/setup`` installs what the system has to bring.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nox

nox.needs_version = ">=2026.10.20"  # --parallel
nox.options.sessions = ["build", "lint", "docs", "quick_bench", "tests"]
nox.options.reuse_venv = "yes"
nox.options.allow_parallel = True
nox.options.error_on_missing_interpreters = False

ROOT = Path(__file__).resolve().parent
DIST = ROOT / "dist"
RESULTS = ROOT / ".nox" / "results"
PROJECT = nox.project.load_toml("pyproject.toml")

CPYTHONS = nox.project.python_versions(PROJECT)
PYPY = "pypy3"
# The Python that runs nox.
OWN = f"{sys.version_info.major}.{sys.version_info.minor}"

# nox finds the Pythons of pyenv only if they are switched on.
if shutil.which("pyenv"):
    listing = subprocess.run(
        ["pyenv", "versions", "--bare"], capture_output=True, text=True, check=False
    )
    os.environ["PYENV_VERSION"] = ":".join(reversed(listing.stdout.split()))

SETTINGS: dict[str, str | None] = {
    # What a user has set for Python is not to change what the tests see.
    **{name: None for name in os.environ if name.startswith("PYTHON")},
    "LC_ALL": "C.UTF-8",  # in the C locale, PyPy takes file names for ASCII
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PYENV_VERSION": None,
}


# Where it runs, pytest finds neither the configuration nor the tests.
PYTEST = ["pytest", f"--rootdir={ROOT}", f"--config-file={ROOT}/pyproject.toml"]


def requirements(group: str) -> list[str]:
    """Return the requirements in a dependency group of pyproject.toml."""
    return list(nox.project.dependency_groups(PROJECT, group))


def find(pattern: str) -> str:
    """Return the path of the one file in dist/ that matches ``pattern``."""
    (found,) = DIST.glob(pattern)
    return str(found)


def find_package(python: object) -> str:
    """Return the path of what this Python installs.

    One wheel serves all CPythons, but for the free-threaded ones, which build their own
    from the sdist.
    """
    if str(python).endswith("t"):
        return find("*.tar.gz")
    return find("*-pp3*.whl" if python == PYPY else "*-abi3-*.whl")


def install(session: nox.Session, *groups: str, package: str = "") -> None:
    """Install dependency groups, and the wheel or another ``package``."""
    session.env.update(SETTINGS)
    needed = [item for group in groups for item in requirements(group)]
    session.install(*PROJECT["project"]["dependencies"], *needed)
    package = package or find_package(session.python)
    # Also where an earlier build of the same version is there.
    session.install("--force-reinstall", "--no-deps", "--no-cache-dir", package)


def leave_clone(session: nox.Session) -> None:
    """Go where Python finds the installed package, and not the source."""
    session.chdir(session.virtualenv.location)


def pytest_arguments(session: nox.Session) -> list[str]:
    """Return the arguments for pytest: by default, all tests of the clone."""
    arguments = session.posargs
    if not any(argument.startswith("tests") for argument in arguments):
        arguments = [*arguments, "tests"]
    # pytest does not run in the clone.
    return [
        str(ROOT / argument) if argument.startswith("tests") else argument
        for argument in arguments
    ]


def run_on_pypy(session: nox.Session, *arguments: str) -> None:
    """Run PyPy in an environment for it, "pypy" in the session's own."""
    directory = Path(session.virtualenv.location) / "pypy"
    if not (directory / "bin" / "pip").exists():
        session.run(PYPY, "-m", "venv", "--clear", str(directory), external=True)
    session.run(str(directory / "bin" / "python"), *arguments, external=True)


@nox.session
def build(session: nox.Session) -> None:
    """Build what a release consists of, and check it: the sdist, and its wheels."""
    session.env.update(SETTINGS)
    session.install(*requirements("release"))
    shutil.rmtree(DIST, ignore_errors=True)
    session.run("python", "-m", "build", f"--outdir={DIST}", silent=True)
    if shutil.which(PYPY):
        make = ["-m", "pip", "wheel", "--quiet", "--no-deps"]
        run_on_pypy(session, *make, f"--wheel-dir={DIST}", find("*.tar.gz"))
    session.run("twine", "check", "--strict", *map(str, sorted(DIST.iterdir())))
    session.run("abi3audit", "--strict", find_package(session.python))


@nox.session(requires=["build"], python=[*CPYTHONS, PYPY])
def tests(session: nox.Session) -> None:
    """Run the tests."""
    install(session, "test")
    result = RESULTS / f"{session.name}.xml"
    result.unlink(missing_ok=True)
    leave_clone(session)
    session.run(*PYTEST, f"--junitxml={result}", *pytest_arguments(session))


@nox.session(requires=["build"])
def lint(session: nox.Session) -> None:
    """Check style, spelling and types."""
    install(session, "test", "lint")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("codespell", ".")
    session.run("mypy")
    session.run("pyright")
    find_helpers(session)
    session.run("python", "tests/packaging/types_of_docs.py")
    for module in ("remctl", "_remctl"):
        session.run("pyright", "--verifytypes", module)
    # Without mypy's configuration: it compares with the Python that runs.
    allowlist = f"--allowlist={ROOT}/tests/packaging/stubtest_allowlist.txt"
    session.run("stubtest", allowlist, "remctl", "_remctl")


@nox.session(requires=["build"])
def docs(session: nox.Session) -> None:
    """Build the site, which begins at .nox/docs/site/index.html, and check it."""
    install(session, "docs")
    environment = Path(session.virtualenv.location)
    site, doctrees = environment / "site", environment / "doctrees"
    shutil.rmtree(site, ignore_errors=True)
    strict = ["-W", "--keep-going", "-n", "-q", "-E"]
    session.run("sphinx-build", *strict, "-d", str(doctrees), "docs", str(site))
    session.run("python", "scripts/check_site.py", str(site))


def run_benchmarks(session: nox.Session, *arguments: str) -> None:
    """Run the benchmarks, on PyPy too."""
    if not shutil.which(PYPY):
        session.error(f"the benchmarks need {PYPY}")
    install(session, "test")
    pip = ["-m", "pip", "install", "--quiet", "--force-reinstall", "--no-deps"]
    run_on_pypy(session, *pip, find_package(PYPY))
    session.run("python", "benchmarks/run.py", *arguments)


@nox.session(requires=["build"])
def quick_bench(session: nox.Session) -> None:
    """See that the benchmarks work; their figures mean nothing."""
    run_benchmarks(session, "--quick")


@nox.session(requires=["build"])
def bench(session: nox.Session) -> None:
    """Compare this package with C, pyremctl and Net::Remctl."""
    run_benchmarks(session, *session.posargs)


@nox.session(requires=["build"])
def release(session: nox.Session) -> None:
    """Run the checks and the tests that the sdist brings, on what it builds."""
    session.install(*requirements("dev"))
    directory = Path(session.virtualenv.location) / "sdist"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    session.run("tar", "-xf", find("*.tar.gz"), "-C", str(directory), external=True)
    (unpacked,) = directory.iterdir()
    arguments = ["-j", "2", "-f", str(unpacked / "noxfile.py")]
    session.run("nox", *arguments, "--", *session.posargs)


# What takes too long for every change: nox -t soak


# What libraries watch the C code with, the symbols that tell instrumented code, and the
# tests: not those that count memory, which AddressSanitizer does not give back, nor
# those that write to descriptors which are not theirs, to see whose they are.
SANITIZERS: dict[str, dict[str, Any]] = {
    "address": {
        "flags": "-fsanitize=address,undefined",
        "libraries": ["libasan.so", "libubsan.so"],
        "symbol": "__asan_",
        "tests": "hostile stateful backlog lost_connection client simple protocol1 "
        "threads aio jobs timeouts signals memory processes",
        "without": "test_memory_stays_bounded",
    },
    "thread": {
        "flags": "-fsanitize=thread",
        "libraries": ["libtsan.so"],
        "symbol": "__tsan_",
        "tests": "threads jobs memory processes",
        "without": "without_standard_streams",
    },
}

OURS = re.compile(r"_remctl_cffi|_(shim|connect|jobs)\.c")  # in a stack


def client_tests(names: str) -> list[str]:
    """Return the paths of these modules of the client's tests."""
    return [f"{ROOT}/tests/client/test_{name}.py" for name in names.split()]


def find_extension(session: nox.Session) -> Path:
    """Return the path of the extension of the package that is installed."""
    pattern = "lib/python3*/site-packages/remctl/_remctl_cffi*.so"
    (extension,) = Path(session.virtualenv.location).glob(pattern)
    return extension


def find_helpers(session: nox.Session) -> None:
    """Let programs in tests/soak import what tests import."""
    session.env["PYTHONPATH"] = f"{ROOT}/tests/helpers:{ROOT}/tests"


def fixed_addresses() -> list[str]:
    """Return what a command begins with, so that libtsan finds room for its own."""
    allowed = subprocess.run(["setarch", "-R", "true"], check=False).returncode == 0
    return ["setarch", "-R"] if allowed else []


def have_python_begin_with(session: nox.Session, libraries: list[str]) -> None:
    """Put a program in the place of python that loads these libraries first.

    Only Python begins with them: a shell with libtsan in it crashes.
    """
    paths = [
        subprocess.check_output(["gcc", f"-print-file-name={name}"], text=True).strip()
        for name in libraries
    ]
    # All resolved first, as some are links to others.
    interpreters = {path: path.resolve() for path in Path(session.bin).glob("python*")}
    for python, interpreter in interpreters.items():
        python.unlink()
        python.write_text(
            f"""#!/bin/bash
LD_PRELOAD="{" ".join(paths)}" exec -a "$0" "{interpreter}" "$@"
"""
        )
        python.chmod(0o755)
    (packages,) = Path(session.virtualenv.location).glob("lib/python3*/site-packages")
    (packages / "preloaded.pth").write_text(
        'import os; os.environ.pop("LD_PRELOAD", None)'
    )


@nox.session(requires=["build"], tags=["soak"], reuse_venv=False)
@nox.parametrize("sanitizer", list(SANITIZERS))
def sanitized(session: nox.Session, sanitizer: str) -> None:
    """Run tests with the shim instrumented; a report with a frame of ours fails.

    libremctl, libkrb5 and the interpreter are not built so, but what they do to memory
    of ours is seen.  Only on CPython: the C code is the same for PyPy.
    """
    chosen = SANITIZERS[sanitizer]
    flags = chosen["flags"]
    session.env["CFLAGS"] = f"-g -O1 -fno-omit-frame-pointer {flags}"
    session.env["LDFLAGS"] = flags
    install(session, "test", package=find("*.tar.gz"))
    extension = find_extension(session)
    symbols = subprocess.check_output(["nm", "-D", str(extension)], text=True)
    if chosen["symbol"] not in symbols:
        session.error(f"{extension} is not instrumented")
    have_python_begin_with(session, chosen["libraries"])
    reports = Path(session.virtualenv.location) / "reports"
    reports.mkdir()
    settings = {
        # A report that comes at the end of a process leaves its exit status alone.
        "ASAN_OPTIONS": f"detect_leaks=0:handle_segv=0:log_path={reports}/asan",
        "UBSAN_OPTIONS": f"print_stacktrace=1:log_path={reports}/ubsan",
        "TSAN_OPTIONS": f"die_after_fork=0:exitcode=0:log_path={reports}/tsan",
        "PYTHONMALLOC": "malloc",
    }
    session.log(f"reports: {reports}")
    leave_clone(session)
    pytest = [*fixed_addresses(), *PYTEST]
    pytest += ["-k", f"not {chosen['without']}", *client_tests(chosen["tests"])]
    try:
        session.run(*pytest, env=settings, external=True)
    finally:
        complain(session, reports)


def complain(session: nox.Session, reports: Path) -> None:
    """Fail if a stack in one of the reports has a frame of ours."""
    texts = [path.read_text(errors="replace") for path in sorted(reports.iterdir())]
    # Stacks are paragraphs, before which valgrind puts its process's number.
    paragraphs = re.split(r"\n(?:==\d+== *)?\n", "\n\n".join(texts))
    ours = [paragraph for paragraph in paragraphs if OURS.search(paragraph)]
    session.log(f"{len(texts)} reports, {len(ours)} stacks of ours")
    if ours:
        session.error("\n\n".join(ours))


@nox.session(requires=["build"], tags=["soak"])
def valgrind(session: nox.Session) -> None:
    """Run the hostile servers under valgrind; a report with a frame of ours fails."""
    install(session, "test")
    reports = Path(session.virtualenv.location) / "reports"
    shutil.rmtree(reports, ignore_errors=True)
    reports.mkdir()
    command = ["valgrind", f"--log-file={reports}/%p", "--num-callers=40"]
    command += ["--leak-check=full", "--show-leak-kinds=definite"]
    # Not --trace-children: the servers have nothing of ours.
    command += ["--child-silent-after-fork=yes"]
    command += [f"--suppressions={ROOT}/tests/soak/valgrind.supp"]
    leave_clone(session)
    command += [f"{session.bin}/python", "-m", *PYTEST]
    settings = {"PYTHONMALLOC": "malloc"}
    try:
        session.run(*command, *client_tests("hostile"), env=settings, external=True)
    finally:
        complain(session, reports)


@nox.session(requires=["build"], python=[OWN, PYPY], tags=["soak"])
def portable(session: nox.Session) -> None:
    """Run the tests with the shim built as on systems that are not Linux."""
    session.env["CFLAGS"] = "-DREMCTL_PORTABLE"
    install(session, "test", package=find("*.tar.gz"))
    leave_clone(session)
    check = "from remctl._ffi import lib; raise SystemExit(lib.SHIM_LINUX)"
    session.run("python", "-c", check)
    session.run(*PYTEST, *pytest_arguments(session))


@nox.session(tags=["soak"])
def compilers(session: nox.Session) -> None:
    """Compile the extension with several compilers and C libraries without warnings."""
    session.install(*PROJECT["build-system"]["requires"])
    source = Path(session.create_tmp()).resolve() / "extension.c"
    emit = "import build_remctl, sys; build_remctl.ffibuilder.emit_c_code(sys.argv[1])"
    session.run("python", "-c", emit, str(source))
    where = "import sysconfig; print(sysconfig.get_path('include'))"
    python = [f"{session.bin}/python", "-c", where]
    headers = subprocess.check_output(python, text=True).strip()
    machine = subprocess.check_output(["gcc", "-print-multiarch"], text=True).strip()
    command = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-c", "-o/dev/null"]
    command += [f"-I{ROOT}/remctl", f"-isystem{headers}", str(source)]
    # For musl: the headers of Linux and libremctl are beside those of glibc.
    command += [f"-idirafter/usr/include/{machine}", "-idirafter/usr/include"]
    for compiler in ("gcc", "clang", "musl-gcc"):
        session.run(compiler, *command, external=True)
        session.run(compiler, "-DREMCTL_PORTABLE", *command, external=True)


def download_source(session: nox.Session, package: str, directory: Path) -> Path:
    """Download a source from where the system has its packages from, and unpack it."""
    lists = directory / "lists"
    lists.mkdir()
    line = "deb-src $(SITE) $(RELEASE) $(COMPONENT)"
    targets = ["apt-get", "indextargets", "--format", line, "Created-By: Packages"]
    targets.append(f"Origin: {platform.freedesktop_os_release()['ID'].capitalize()}")
    sources = directory / "sources.list"
    sources.write_text(subprocess.check_output(targets, text=True))
    apt = ["apt-get", "-q", "-o", f"Dir::Etc::SourceList={sources}"]
    apt += ["-o", "Dir::Etc::SourceParts=-", "-o", f"Dir::State::Lists={lists}"]
    session.run(*apt, "update", silent=True, external=True)
    with session.chdir(directory):
        session.run(*apt, "source", "--tar-only", package, silent=True, external=True)
    (archive,) = directory.glob("*.orig.tar.*")
    session.run("python", "-m", "tarfile", "--extract", str(archive), str(directory))
    (source,) = directory.glob(f"{package}-*")
    return source


def build_libremctl(session: nox.Session, krb5_config: str) -> Path:
    """Build libremctl with the Kerberos library that ``krb5_config`` tells of.

    Returns the directory with its include and lib.
    """
    directory = Path(session.virtualenv.location) / "libremctl"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    with session.chdir(download_source(session, "remctl", directory)):
        options = ["-q", f"--prefix={directory}", "--disable-static"]
        options.append(f"PATH_KRB5_CONFIG={shutil.which(krb5_config)}")
        session.run("./configure", *options, external=True)
        targets = ["install-libLTLIBRARIES", "install-includeHEADERS"]
        session.run("make", "-s", *targets, silent=True, external=True)
    return directory


@nox.session(requires=["build"], tags=["soak"])
def heimdal(session: nox.Session) -> None:
    """Run the client's tests with Heimdal's library; KDC and servers stay MIT's."""
    directory = build_libremctl(session, "krb5-config.heimdal")
    session.env["REMCTL_INCLUDE_DIR"] = str(directory / "include")
    session.env["REMCTL_LIB_DIR"] = str(directory / "lib")
    install(session, "test", package=find("*.tar.gz"))
    extension = find_extension(session)
    libraries = subprocess.check_output(["ldd", str(extension)], text=True)
    if "libgssapi.so.3" not in libraries or "libgssapi_krb5" in libraries:
        session.error(f"{extension} is not linked with Heimdal:\n{libraries}")
    leave_clone(session)
    directories = [f"{ROOT}/tests/{name}" for name in ("client", "cli", "testing")]
    session.run(*PYTEST, *directories, *session.posargs)


@nox.session(requires=["build"], tags=["soak"])
def shim_threads(session: nox.Session) -> None:
    """Drive the shim from C, by threads and forks, under two sanitizers."""
    install(session, "test")
    find_helpers(session)
    program = [f"{session.bin}/python", "tests/soak/shim_threads.py", "--rounds=100"]
    session.run(*fixed_addresses(), *program, *session.posargs, external=True)


@nox.session(requires=["build"], tags=["soak"])
def guards(session: nox.Session) -> None:
    """Take each guard of tests/hazards.py out, and see one of its tests fail."""
    install(session, "test")
    find_helpers(session)
    session.run("python", "tests/soak/without_guards.py", *session.posargs)


@nox.session(requires=["build"], python=[OWN, PYPY], tags=["soak"])
def leaks(session: nox.Session) -> None:
    """Look for leaks in 10,000 cycles of everything that takes memory."""
    install(session, "test")
    find_helpers(session)
    session.run("python", "tests/soak/leaks.py")


@nox.session(requires=["build"], python=[OWN, PYPY], tags=["soak"])
def load(session: nox.Session) -> None:
    """Keep 64 threads, and then pools, busy for a minute, and check every reply."""
    install(session, "test")
    find_helpers(session)
    session.run("python", "tests/soak/load.py", "--seconds=60", "--threads=64")
    session.run("python", "tests/soak/pool.py", "--commands=10000")
