# SPDX-License-Identifier: MIT
"""Name the cffi builder: pyproject.toml, which says all the rest, cannot."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from setuptools import setup
from setuptools.command.build_ext import build_ext


class BuildExtension(build_ext):
    """Compile the extension, if libremctl is there: nothing else needs it."""

    def pre_run(self, ext: Any, _ffi: Any) -> None:
        """Stop with a sentence that helps; cffi calls this before it compiles."""
        builder = Path(__file__).with_name("build_remctl.py")
        runpy.run_path(str(builder))["check_library"](vars(ext))


setup(
    cffi_modules=["build_remctl.py:ffibuilder"],
    cmdclass={"build_ext": BuildExtension},
)
