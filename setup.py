# SPDX-License-Identifier: MIT
"""Name the cffi builder: pyproject.toml, which says all the rest, cannot."""

from setuptools import setup

setup(cffi_modules=["build_remctl.py:ffibuilder"])
