# SPDX-License-Identifier: MIT
"""The exceptions that are answers to the client."""

DIED = 255  # the status that Perl's die exits with


class CommandError(Exception):
    """A command failed, in a way that its caller is told.

    Raise it in a command to write ``COMMAND: MESSAGE`` to standard error and to
    exit with ``status``, 1 to 255.
    """

    def __init__(self, message: str, status: int = 1) -> None:
        """Keep the message and the status; raise ValueError unless it is 1 to 255."""
        if not 1 <= status <= 255:  # exit() would make 256 a success
            raise ValueError(f"an exit status of a failure must be 1 to 255: {status}")
        super().__init__(message, status)
        self.message = message
        self.status = status

    def __str__(self) -> str:
        """Return the message."""
        return str(self.message)  # as ``message`` may not be a str


class RefusedError(CommandError):
    """The command was not run: its arguments are wrong."""

    def __init__(self, message: str) -> None:
        """Keep the message."""
        super().__init__(message, DIED)
        self.args = (message,)  # copy and pickle call the class with these


class ProgramError(RefusedError):
    """An error that is not about one command; its message has no prefix."""
