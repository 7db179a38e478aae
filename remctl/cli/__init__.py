# SPDX-License-Identifier: MIT
"""The command line, ``python -m remctl``.  Programs use remctl.Remctl instead."""
