# SPDX-License-Identifier: MIT
"""Every row of the table of hostile servers, on a connection of its own."""

from __future__ import annotations

import select
import time
from typing import TYPE_CHECKING, Any, Callable

import pytest
from hostile import COMMAND, LARGE, VARIANTS, Variant
from support import HANG, descriptors, wait_until

import remctl

if TYPE_CHECKING:
    from remctl.testing import Server

pytestmark = [pytest.mark.both_twins, pytest.mark.loop_stays_free]

# Seconds that the server has to say something more.
SOON = 15.0


def make_call(client: remctl.Remctl, call: str, port: int) -> object:
    """Make one call of a Variant, and return its result."""
    if call == "wait":
        return select.select([client], [], [], SOON)
    if call == "run":
        return client.run(COMMAND)
    if call == "noop":
        return client.noop()
    if call == "close":
        client.close()
        return None
    if call == "output":
        return client.output()
    if call == "open":
        client.open("localhost", port)
    elif call == "command":
        client.command(COMMAND)
    else:
        client.command(LARGE if call == "write" else COMMAND)
        for _, token in zip(range(5000), client):
            assert token.output == bytes(1000)
        client.close()
    return None


def make_calls(client: remctl.Remctl, variant: Variant, port: int) -> object:
    """Make all calls of ``variant``; return the last one's result, or its exception."""
    *first, last = variant.calls.split(", ")
    for call in first:
        make_call(client, call, port)
    client.set_timeout(variant.timeout or 0)
    start = time.monotonic()
    try:
        return make_call(client, last, port)
    except remctl.RemctlError as error:
        return error
    finally:
        assert time.monotonic() - start < HANG


@pytest.mark.parametrize("name", VARIANTS)
def test_hostile_server(
    name: str, server: Server, scripted: Callable[..., Any]
) -> None:
    """S43, S36, S42: what comes of it, what is left, and that open() works again."""
    variant = VARIANTS[name]
    before = descriptors()
    hostile = scripted(*variant.script)
    client = remctl.Remctl()
    outcome = make_calls(client, variant, hostile.port)
    if isinstance(outcome, remctl.RemctlError):
        assert type(outcome) is variant.expected, outcome
        assert variant.text in str(outcome)
        assert getattr(outcome, "code", None) == variant.code
        assert outcome.stage == variant.stage
        assert client.error() == str(outcome)
    else:
        assert outcome == variant.expected
    assert client.opened == variant.opened
    if not variant.opened:
        for call in (client.output, client.noop, lambda: client.command(COMMAND)):
            with pytest.raises(remctl.RemctlNotOpenedError):
                call()
    client.set_timeout(0)
    client.open(server.host, server.port)
    assert client.run(["test", "hello"]).stdout == b"hello world\n"
    client.close()
    if variant.quits is not None:
        hostile.wait_for("eof", 0)
    hostile.close()
    wait_until(lambda: descriptors() == before)  # protocol 1's go with the server
    events = [event["event"] for event in hostile.events]
    assert events.count("command") == variant.commands
    assert variant.quits in (None, "quit" in events)
