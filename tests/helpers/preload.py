# SPDX-License-Identifier: MIT
"""Libraries in C that a test puts into LD_PRELOAD of a program."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path


@cache
def library(name: str) -> str:
    """Return the path of the library that is made of NAME.c, beside this file."""
    source = Path(__file__).with_name(f"{name}.c")
    made = Path(os.environ["KRB5_CONFIG"]).with_name(f"{name}.so")
    command = ["gcc", "-shared", "-fPIC", str(source), "-o", str(made), "-ldl"]
    subprocess.run(command, check=True)
    return str(made)
