# SPDX-License-Identifier: MIT
"""The type of a stage, apart from the exceptions: typing takes long to import."""

from __future__ import annotations

from typing import Literal

# The stages of a call, in their order.
Stage = Literal["resolve", "connect", "authenticate", "send", "reply"]
