# SPDX-License-Identifier: MIT
"""The machine and the versions that figures come from."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path

from contestants import CPYTHON, PYPY, ROOT
from servers import PYTHON

PACKAGES = {
    "libremctl": "libremctl1",
    "remctld": "remctl-server",
    "krb5": "libgssapi-krb5-2",
    "pyremctl": "python3-pyremctl",
    "Net::Remctl": "libnet-remctl-perl",
    "Perl": "perl-base",
}


def output(*command: str | Path) -> str:
    """Return what a command prints, or nothing if there is no such command."""
    try:
        result = subprocess.run(
            command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
        )
    except FileNotFoundError:
        return ""
    return result.stdout.strip()


def python_version(interpreter: str | Path) -> str:
    """Return an interpreter's name and version."""
    return output(
        interpreter,
        "-c",
        "import platform as p, sys; v = sys.implementation.version;"
        "print(p.python_implementation(), p.python_version(),"
        " '' if v[:2] == sys.version_info[:2] else '%d.%d.%d' % v[:3])",
    )


def describe() -> dict[str, str]:
    """Return what to know about the machine and the versions, by name."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    cpu = re.findall(r"^model name\s*: (.*)$", cpuinfo, re.MULTILINE)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = {
        name: output("dpkg-query", "-W", "-f=${Version}", package)
        for name, package in PACKAGES.items()
    }
    commit = output("git", "describe", "--always", "--dirty")
    return {
        "Processor": f"{len(cpu)} x {cpu[0] if cpu else platform.machine()}",
        "Memory": f"{memory:.1f} GiB",
        "System": f"{output('lsb_release', '-ds') or system()}, {platform.release()}",
        "remctl-cffi": f"{importlib.metadata.version('remctl-cffi')} ({commit})",
        "its interpreters": f"{python_version(CPYTHON)}; {python_version(PYPY)}",
        "pyremctl's": python_version(PYTHON),
        "C compiler": output("cc", "--version").partition("\n")[0],
        **versions,
    }


def system() -> str:
    """Return the name of the distribution."""
    found = re.search(
        r'^PRETTY_NAME="(.*)"$', Path("/etc/os-release").read_text(), re.MULTILINE
    )
    return found[1] if found else platform.system()
