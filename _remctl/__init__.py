# SPDX-License-Identifier: MIT
"""Make ``import _remctl`` find the low-level interface, remctl._remctl."""

from remctl._remctl import *  # noqa: F403
from remctl._remctl import __all__  # noqa: F401
