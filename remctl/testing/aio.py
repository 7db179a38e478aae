# SPDX-License-Identifier: MIT
"""FakeRemctl for code that uses remctl.aio."""

from __future__ import annotations

import remctl.aio
from remctl.testing._fake import Scripted

__all__ = ["FakeRemctl"]


class FakeRemctl(Scripted, remctl.aio.Remctl):
    """A remctl.aio.Remctl without a server, for unit tests: its replies are scripted.

    Its arguments, and what it does with them, are those of remctl.testing.FakeRemctl.
    It stands for the class remctl.aio.Remctl; what is awaited there is awaited here.
    """
