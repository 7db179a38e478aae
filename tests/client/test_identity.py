# SPDX-License-Identifier: MIT
"""Who a command runs as: the user whose cache the object was given, and nobody else."""

from __future__ import annotations

import ctypes
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, Callable

import pytest
from kerberos import HEIMDAL
from support import HANG

import remctl

if TYPE_CHECKING:
    from pathlib import Path

    from scripted import ScriptedServer

    from remctl.testing import Realm, Server

    Scripted = Callable[..., ScriptedServer]
    Caches = dict[str, str]

pytestmark = pytest.mark.both_twins

HOST = "127.0.0.1"
THREADS = 8
ROUNDS = 8
SERVE = ["handshake", ["serve"]]
SERVE1 = [["handshake", {"protocol": 1}], ["serve"]]


@pytest.fixture(scope="module")
def caches(realm: Realm, tmp_path_factory: pytest.TempPathFactory) -> Caches:
    """A cache for each of two users, by principal."""
    directory = tmp_path_factory.mktemp("caches")
    return {
        principal: realm.kinit(principal, directory / principal)
        for principal in (realm.user, realm.principal("bob"))
    }


def who(client: remctl.Remctl, tag: str = "") -> str:
    """Run a command and return whom the server saw, after checking the tag."""
    reply = client.run(["test", "user", tag])
    assert reply.stdout is not None
    principal, seen = reply.stdout.decode().rstrip("\n").split(" ")
    assert seen == tag
    return principal


def one_shot(server: Server, ccache: str | None, tag: str = "") -> str:
    reply = remctl.remctl(
        server.host, server.port, None, ["test", "user", tag], ccache=ccache
    )
    assert reply.stdout is not None
    principal, seen = reply.stdout.decode().rstrip("\n").split(" ")
    assert seen == tag
    return principal


def in_threads(function: Callable[[int], None]) -> None:
    """Call it with the number of each thread, all at the same time."""
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(function, range(THREADS)))


def test_each_object_runs_as_the_user_of_its_cache(
    server: Server, caches: Caches
) -> None:
    """S22: 8 threads open as both users, in turns, by every way to give a cache."""
    ready = threading.Barrier(THREADS, timeout=HANG)

    def work(number: int) -> None:
        random = Random(number)
        for turn in range(ROUNDS):
            names = random.sample(list(caches), 2)
            with ExitStack() as stack:
                first, second = names
                one = stack.enter_context(remctl.Remctl(ccache=caches[first]))
                two = stack.enter_context(remctl.Remctl())
                two.set_ccache(caches[second])
                ready.wait()
                for client in (one, two):
                    client.open(server.host, server.port)
                clients = {first: one, second: two}
                for step in range(8):
                    name = random.choice(names)
                    tag = f"{number}-{turn}-{step}"
                    if step % 4 == 3:
                        assert one_shot(server, caches[name], tag) == name
                    else:
                        assert who(clients[name], tag) == name
                one.set_ccache(caches[second])
                assert who(one) == first
                one.open(server.host, server.port)
                assert (who(one), who(two)) == (second, second)

    in_threads(work)


def test_an_objects_cache_is_nobody_elses(
    server: Server, realm: Realm, caches: Caches
) -> None:
    """S22: objects without a cache use the default one, in whatever thread they are."""
    ready = threading.Barrier(THREADS, timeout=HANG)

    def work(number: int) -> None:
        given = number % 2 == 1
        for _ in range(ROUNDS):
            with remctl.Remctl() as client, remctl.Remctl() as other:
                if given:
                    client.set_ccache(caches[realm.principal("bob")])
                ready.wait()
                client.open(server.host, server.port)
                other.open(server.host, server.port)
                assert who(client) == (realm.principal("bob") if given else realm.user)
                assert who(other) == realm.user

    in_threads(work)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("default", ["user", "bob"])
def test_a_one_shot_calls_cache_is_for_that_call(
    server: Server, realm: Realm, caches: Caches, default: str, threads: int
) -> None:
    """S2: calls without ccache use the default one, before and after calls with it."""
    users = [realm.user, realm.principal("bob")]
    if default == "bob":
        users.reverse()
    here, other = users
    os.environ["KRB5CCNAME"] = caches[here]
    with ExitStack() as stack:
        # Threads that stay: what a call leaves behind in one would be found.
        pools = [stack.enter_context(ThreadPoolExecutor(1)) for _ in range(threads)]
        # Each after each, and each in the same thread and in the other one.
        given = [None, other, None, None, other, other, None, None, None, other, other]
        for number, name in enumerate(given):
            cache = None if name is None else caches[name]
            pool = pools[number % threads]
            assert pool.submit(one_shot, server, cache).result() == (name or here)


def test_another_bindings_cache_is_not_ours(
    server: Server, realm: Realm, caches: Caches
) -> None:
    """Hazard 26: gss_krb5_ccache_name() in a thread is for that thread's own calls."""
    library = ctypes.CDLL("libgssapi.so.3" if HEIMDAL else "libgssapi_krb5.so.2")
    with ThreadPoolExecutor(1) as pool:
        set_name = partial(
            library.gss_krb5_ccache_name,
            ctypes.byref(ctypes.c_uint32()),
            caches[realm.principal("bob")].encode(),
            None,
        )
        assert pool.submit(set_name).result() == 0
        assert pool.submit(one_shot, server, None).result() == realm.user


def test_a_client_keytab_fills_a_missing_cache(
    server: Server, realm: Realm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hazard 25: with MIT's library; Heimdal's knows no client keytabs."""
    keytab = realm.extract_keytab("bob", tmp_path / "bob.keytab")
    monkeypatch.setenv("KRB5_CLIENT_KTNAME", str(keytab))
    missing = str(tmp_path / "none")
    if HEIMDAL:
        with pytest.raises(remctl.RemctlError, match="importing ticket cache"):
            one_shot(server, missing)
    else:
        assert one_shot(server, missing) == realm.principal("bob")


def set_ccache(client: remctl.Remctl, realm: Realm, bob: str) -> None:
    client.set_ccache(bob)


def change_variable(client: remctl.Remctl, realm: Realm, bob: str) -> None:
    os.environ["KRB5CCNAME"] = bob


def replace_cache(client: remctl.Remctl, realm: Realm, bob: str) -> None:
    realm.kinit("bob", os.environ["KRB5CCNAME"])


CHANGES = [set_ccache, change_variable, replace_cache]


@pytest.fixture
def own_default(realm: Realm, tmp_path: Path) -> str:
    """A default cache of this test's own, with user's tickets."""
    cache = realm.kinit(realm.user, tmp_path / "default")
    os.environ["KRB5CCNAME"] = cache
    return cache


@pytest.mark.usefixtures("own_default")
@pytest.mark.parametrize("change", CHANGES)
def test_an_open_object_keeps_its_user(
    server: Server, realm: Realm, caches: Caches, change: Callable[..., None]
) -> None:
    """S22, S29: until the next open(), which is by the new user."""
    with remctl.Remctl(server.host, server.port) as client:
        assert who(client) == realm.user
        change(client, realm, caches[realm.principal("bob")])
        assert who(client) == realm.user
        client.open(server.host, server.port)
        assert who(client) == realm.principal("bob")


@pytest.mark.usefixtures("own_default")
@pytest.mark.parametrize("change", [set_ccache, change_variable])
def test_an_open_object_keeps_its_user_with_protocol_1(
    scripted: Scripted, realm: Realm, caches: Caches, change: Callable[..., None]
) -> None:
    """S48: though each command authenticates again."""
    server = scripted(SERVE1)
    with remctl.Remctl(HOST, server.port, realm.service) as client:
        client.run(["test", "echo"])
        change(client, realm, caches[realm.principal("bob")])
        client.run(["test", "echo"])
    assert principals(server) == [realm.user] * 3


def principals(server: ScriptedServer) -> list[Any]:
    """Whom the server has seen, in order; ends the server."""
    server.close()
    return [e["principal"] for e in server.events if e["event"] == "handshake"]
