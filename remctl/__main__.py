# SPDX-License-Identifier: MIT
"""``python -m remctl``: run a command on a remote host, or on several."""

from __future__ import annotations

import sys


def run() -> int | str:
    """Do what the command line says; return the argument for sys.exit()."""
    try:
        from remctl.cli._main import main  # noqa: PLC0415 (it takes a while)

        return main(sys.argv[1:])
    except ImportError as error:  # libremctl has been removed
        return f"remctl: {error}"
    except KeyboardInterrupt:  # before main() handles it
        return 130


if __name__ == "__main__":
    sys.exit(run())
