# SPDX-License-Identifier: MIT
"""What one host answers, turned into output and an exit status.

The same code serves one host and each of several: it does no waiting.
"""

from __future__ import annotations

from remctl.cli._process import FAILED, SERVER_ERROR, STDOUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Union

    from remctl import RemctlError, RemctlOutput
    from remctl._base import RemctlBase
    from remctl.cli._json import JsonOutput
    from remctl.cli._options import Options
    from remctl.cli._output import LabelledOutput, RawOutput

    Output = Union[RawOutput, LabelledOutput, JsonOutput]


class ReplyPrinter:
    """Prints one host's reply as it comes, and keeps the status of its command."""

    def __init__(self, output: Output, options: Options) -> None:
        """Print to ``output``, with the messages of -d if ``options`` ask for them."""
        self._output = output
        self._debug = options.debug
        self._failure = FAILED
        self._error_prefix = ""
        # The command's, as exit() takes it; None unless the server has sent it.
        self.status: int | None = None

    def sent(self) -> None:
        """Note that the command is sent."""
        # remctl(1)'s words for a failure from here on.
        self._error_prefix = "error reading from server: "

    def print(self, token: RemctlOutput) -> None:
        """Print a token of the reply."""
        data = token.output or b""
        if token.type == "output":
            if self._debug:  # not the content, which may be secret
                text = f"received {len(data)} bytes for stream {token.stream}"
                self._output.write_message(text)
            self._output.write(token.stream or STDOUT, data)
            return
        self._output.end()
        if token.type == "error":
            self._failure = SERVER_ERROR
            self._output.write_error(data)
        else:
            self.status = exit_status(token.status)

    def failed(self, error: RemctlError) -> None:
        """Print why the reply will not come, or not to its end."""
        self._output.end()
        self._output.write_failure(error, self._error_prefix)

    def finish(self, client: RemctlBase) -> None:
        """Print what is printed last, about the server that ``client`` has had."""
        log = client._log  # noqa: SLF001 (it knows which of the default ports it was)
        self._output.finish(log.port if log else None, self.status)

    def exit_status(self) -> int:
        """Return the exit status of a command line that is for this host alone."""
        return self._failure if self.status is None else self.status


def exit_status(status: int | None) -> int:
    """Return a command's ``status`` in 8 bits, as exit() takes it.

    Protocol 1 has statuses of 32 bits: a failure must not become 0.
    """
    return (status or 0) & 0xFF or int(bool(status))
