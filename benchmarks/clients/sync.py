# SPDX-License-Identifier: MIT
"""The client for remctl."""

from __future__ import annotations

from blocking import Blocking

import remctl

Blocking("from remctl import Remctl", remctl.remctl, remctl.Remctl).main()
