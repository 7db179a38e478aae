# SPDX-License-Identifier: MIT
"""Name the cffi builder, which pyproject.toml, where all the rest is, cannot do."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from setuptools import setup
from setuptools.command.build_ext import build_ext


class BuildExtension(build_ext):
    """Check for libremctl before compiling: no other build step needs it."""

    def pre_run(self, ext: Any, _ffi: Any) -> None:
        """Exit with a helpful message if it is missing; cffi calls this first."""
        builder = Path(__file__).with_name("build_remctl.py")
        runpy.run_path(str(builder))["check_library"](vars(ext))


setup(
    cffi_modules=["build_remctl.py:ffibuilder"],
    cmdclass={"build_ext": BuildExtension},
)
