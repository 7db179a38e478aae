# SPDX-License-Identifier: MIT
"""FakeRemctl for code that uses remctl.aio."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import remctl.aio
from remctl import _arguments
from remctl._base import check_call
from remctl.testing._fake import Scripted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from remctl import RemctlSimpleResult
    from remctl._arguments import Ccache, Port

__all__ = ["FakeRemctl"]


class FakeRemctl(Scripted, remctl.aio.Remctl):
    """A remctl.aio.Remctl without a server, for unit tests: its replies are scripted.

    Its arguments, and what it does with them, are those of remctl.testing.FakeRemctl.
    It stands for the class remctl.aio.Remctl, and its remctl() for remctl.aio.remctl();
    what is awaited there is awaited here.
    """

    async def remctl(
        self,
        host: str,
        port: Port = None,
        principal: str | None = None,
        command: Iterable[object] = (),
        *,
        timeout: float | None = None,
        ccache: Ccache | None = None,
        source_ip: str | None = None,
    ) -> RemctlSimpleResult:
        """Do what remctl.aio.remctl() does, with the script's next reply."""
        _arguments.server(host, port, principal)
        arguments = check_call(command, timeout, source_ip)
        make = partial(self._another, timeout, ccache, source_ip)
        return await remctl.aio.run_once(make, host, port, principal, arguments)
