# SPDX-License-Identifier: MIT
"""The client for command lines: ``remctl``, and ``python -m remctl`` of an interpreter.

    program.py PROGRAM MEASURE HOST PORT SIZE TURNS WARM

PROGRAM is remctl or an interpreter.  A turn is a process, from its start to its end.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time

from common import HELLO, arguments, expect, report

program = [sys.argv.pop(1)]
if program != ["remctl"]:
    program += ["-m", "remctl"]
given = arguments()
command = [*program, "-p", str(given.port), given.host, *HELLO]
seconds = []
for turn in range(given.warm + given.turns):
    if turn == given.warm:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    result = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    seconds.append(time.perf_counter() - start)
    expect(b"hello\n", result.stdout)
later = resource.getrusage(resource.RUSAGE_CHILDREN)
cpu = later.ru_utime + later.ru_stime - usage.ru_utime - usage.ru_stime
report(seconds=statistics.median(seconds[given.warm :]), cpu=cpu / given.turns)
