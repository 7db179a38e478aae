# SPDX-License-Identifier: MIT
"""Build remctl._remctl_cffi: the cffi builder that setup.py names.

The declarations are in remctl/_shim.cdef and the C code in remctl/_shim.c.
pkg-config tells where libremctl is; without its answer the compiler searches its own
paths.  REMCTL_INCLUDE_DIR and REMCTL_LIB_DIR name a library in another prefix.

Importing this file neither compiles nor needs the library: source distributions and
metadata are also made on machines without libremctl and without a compiler.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from cffi import FFI

HERE = Path(__file__).resolve().parent

MISSING = (
    "remctl-cffi needs libremctl 3.8 or newer, a C compiler and Python's header files: "
    "install them (Debian and Ubuntu: libremctl-dev gcc python3-dev, or pypy3-dev for "
    "PyPy; Fedora: remctl-devel gcc python3-devel; Homebrew: remctl), or set "
    "REMCTL_INCLUDE_DIR and REMCTL_LIB_DIR to where remctl.h and libremctl are."
)

TOO_OLD = (
    "remctl-cffi needs libremctl 3.8 or newer, and the compiler finds an older one: "
    "set REMCTL_INCLUDE_DIR and REMCTL_LIB_DIR to where a newer one is."
)


def pkg_config(option: str) -> list[str]:
    """Return pkg-config's answer for libremctl, an empty list if it has none."""
    command = [os.environ.get("PKG_CONFIG", "pkg-config"), option, "libremctl"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    return shlex.split(answer.stdout)


def compiler_options() -> dict[str, Any]:
    """Return the keyword arguments for set_source() with which libremctl is found."""
    include_dir = os.environ.get("REMCTL_INCLUDE_DIR")
    library_dir = os.environ.get("REMCTL_LIB_DIR")
    if include_dir or library_dir:
        return {
            "include_dirs": [include_dir] if include_dir else [],
            "library_dirs": [library_dir] if library_dir else [],
            "runtime_library_dirs": [library_dir] if library_dir else [],
            "libraries": ["remctl"],
        }
    return {
        "extra_compile_args": pkg_config("--cflags"),
        "extra_link_args": pkg_config("--libs") or ["-lremctl"],
    }


def check_library(options: dict[str, Any]) -> None:
    """Exit with a message if there is no libremctl that can be used, or an old one."""
    if not has_function(options, "remctl_new"):
        sys.exit(MISSING)
    # Added in 3.4.  The compiler cannot tell the releases from there to 3.8 apart.
    if not has_function(options, "remctl_open_fd"):
        sys.exit(TOO_OLD)


def has_function(options: dict[str, Any], name: str) -> bool:
    """Whether remctl.h declares this function, and libremctl has it."""
    compiler = shlex.split(
        os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    )
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory, "check.c")
        source.write_text(
            "#include <remctl.h>\n"
            f"int main(void) {{ void *volatile found = {name}; return !found; }}\n"
        )
        command = [
            *compiler,
            *shlex.split(os.environ.get("CPPFLAGS", "")),
            *shlex.split(os.environ.get("CFLAGS", "")),
            *options.get("extra_compile_args", []),
            *(f"-I{path}" for path in options.get("include_dirs", [])),
            str(source),
            "-o",
            str(Path(directory, "check")),
            *shlex.split(os.environ.get("LDFLAGS", "")),
            *(f"-L{path}" for path in options.get("library_dirs", [])),
            *options.get("extra_link_args", []),
            *(f"-l{name}" for name in options.get("libraries", [])),
        ]
        try:
            subprocess.run(command, capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return False
    return True


options = compiler_options()
options.setdefault("include_dirs", []).append(str(HERE / "remctl"))
ffibuilder = FFI()
ffibuilder.cdef((HERE / "remctl" / "_shim.cdef").read_text())
ffibuilder.set_source(
    "remctl._remctl_cffi",
    '#include "_shim.c"\n',
    depends=[
        str(HERE / "remctl" / name) for name in ("_connect.c", "_jobs.c", "_shim.c")
    ],
    **options,
)

if __name__ == "__main__":
    check_library(options)
    ffibuilder.compile(verbose=True)
