# SPDX-License-Identifier: MIT
"""``python -m remctl``: run a command on a remote host, or on several."""

import sys

if __name__ == "__main__":
    try:
        from remctl._cli import main

        status = main(sys.argv[1:])
    except ImportError as error:  # libremctl is not there any more
        sys.exit(f"remctl: {error}")
    except KeyboardInterrupt:  # before main() has seen to it
        sys.exit(130)
    sys.exit(status)
