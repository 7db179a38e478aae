# SPDX-License-Identifier: MIT
"""What tests of several layers use: the commands that their servers run."""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Literal

from remctl._ffi import lib
from remctl.testing import Command

if TYPE_CHECKING:
    from remctl.testing import Realm

# Seconds after which a test gives up: a bound on a hang, on a machine that is busy with
# other things, too.
HANG = 600.0
# The same where a call has to end at once, and not only after 27 s, when libkrb5 gives
# up a KDC that does not answer.
AT_ONCE = 20.0

COMMANDS = Path(__file__).parent / "commands"

# Whether the shim uses what only Linux has; tests say what differs where it does not.
LINUX_SHIM = bool(lib.SHIM_LINUX)

# valgrind is slow, and runs one thread at a time.
UNDER_VALGRIND = "vgpreload" in os.environ.get("LD_PRELOAD", "")

# Which argument goes to standard input; the subcommand counts as the first.
_STDIN: dict[str, int | Literal["last"]] = {"digest": "last", "stdin": 2, "unread": 2}


def commands(realm: Realm) -> dict[str, Command]:
    """Return all of tests/helpers/commands, as ``test NAME``, for Realm.server().

    Each file there begins by saying what it does.  Beyond them there are: ``test``
    without a subcommand (hello), ``test denied`` (hello, for anybody but the user),
    and ``test missing``, whose program does not exist.
    """
    hello = COMMANDS / "hello"
    return {
        **{
            f"test {path.name}": Command(path, stdin=_STDIN.get(path.name))
            for path in sorted(COMMANDS.iterdir())
        },
        "test EMPTY": Command(hello),
        "test denied": Command(hello, acl=[f"deny:princ:{realm.user}", "ANYUSER"]),
        "test missing": Command(COMMANDS / "no-such-program"),
    }


def run_python(
    code: str,
    *arguments: object,
    timeout: float = HANG,
    options: tuple[str, ...] = (),
) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in an interpreter of its own, for what would end or mark this one.

    ``timeout`` is a bound on a hang, after which every process prints its stacks.
    (Not faulthandler's own timer: its thread is missing in a forked child, which
    waits for it at its end.)
    """
    program = f"import faulthandler; faulthandler.enable()\n{textwrap.dedent(code)}"
    with subprocess.Popen(
        # Unbuffered, as some programs end by a signal.
        [sys.executable, "-u", *options, "-c", program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGABRT)
            stdout, stderr = process.communicate()
            raise AssertionError(f"it hangs\n{stdout}\n{stderr}") from None
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def collect() -> None:
    """Collect garbage, on PyPy too, which needs a few times."""
    for _ in range(3):
        gc.collect()


def descriptors() -> int:
    """Return how many descriptors this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def wait_until(condition: Callable[[], bool], timeout: float = HANG) -> None:
    """Wait until ``condition`` holds, where there is no event to wait for."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            faulthandler.dump_traceback()
            raise AssertionError("it did not happen")
        time.sleep(0.005)
