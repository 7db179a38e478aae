# SPDX-License-Identifier: MIT
"""Name the cffi builder, which pyproject.toml, where all the rest is, cannot do."""

from __future__ import annotations

import runpy
import sys
import sysconfig
from pathlib import Path
from typing import Any

from setuptools import setup
from setuptools.command.build_ext import build_ext

# One wheel serves CPython 3.9 and later.  PyPy, free-threaded builds and debug builds
# have no limited API, or not the same: they build their own.
LIMITED_API = (
    sys.implementation.name == "cpython"
    and not sysconfig.get_config_var("Py_GIL_DISABLED")
    and not hasattr(sys, "gettotalrefcount")
)


class BuildExtension(build_ext):
    """Check for libremctl before compiling: no other build step needs it."""

    def pre_run(self, ext: Any, _ffi: Any) -> None:
        """Exit with a helpful message if it is missing; cffi calls this first."""
        builder = Path(__file__).with_name("build_remctl.py")
        runpy.run_path(str(builder))["check_library"](vars(ext))

    def get_ext_filename(self, fullname: str) -> str:
        """Return the file name of the extension."""
        name: str = super().get_ext_filename(fullname)  # type: ignore[no-untyped-call]
        if not LIMITED_API:
            return name
        # From 3.15 on, setuptools takes a suffix with the name of the platform, which
        # older CPythons do not look for.
        return f"{name.partition('.')[0]}.abi3.so"


setup(
    cffi_modules=["build_remctl.py:ffibuilder"],
    cmdclass={"build_ext": BuildExtension},
    options={"bdist_wheel": {"py_limited_api": "cp39"}} if LIMITED_API else {},
)
