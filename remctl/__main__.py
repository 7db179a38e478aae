# SPDX-License-Identifier: MIT
"""``python -m remctl``: run a command on a remote host, or on several."""

from __future__ import annotations

import sys


def run() -> int | str:
    """Do what the command line says; return what sys.exit() takes."""
    try:
        from remctl._cli import main  # noqa: PLC0415 (it takes a while)

        return main(sys.argv[1:])
    except ImportError as error:  # libremctl is not there any more
        return f"remctl: {error}"
    except KeyboardInterrupt:  # before main() has seen to it
        return 130


if __name__ == "__main__":
    sys.exit(run())
