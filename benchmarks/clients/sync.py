# SPDX-License-Identifier: MIT
"""The client for remctl."""

from __future__ import annotations

from blocking import Blocking

import remctl

Blocking("remctl", remctl.remctl, remctl.Remctl).main()
