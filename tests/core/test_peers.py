"""Who is at the other end."""

from __future__ import annotations

import os
import socket

import pytest

from virtiod.core.peers import Credentials, credentials, origin, peer_of


def test_a_process_is_known_by_its_credentials() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        pid, uid = os.getpid(), os.getuid()
        assert credentials(ours) == Credentials(pid, uid, os.getgid())
        assert peer_of(ours) == (f"pid {pid} uid {uid}", f"uid {uid}", f"pid {pid}")


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_host_is_known_by_its_address(family: socket.AddressFamily, host: str) -> None:
    with (
        socket.create_server((host, 0), family=family) as listener,
        socket.create_connection(listener.getsockname()[:2]) as client,
        listener.accept()[0] as accepted,
    ):
        port = client.getsockname()[1]
        name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        assert peer_of(accepted) == (name, origin(host), "")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::1", "::/64"),
        ("", ""),
    ],
)
def test_hosts_count_once_whichever_of_their_addresses_they_use(address: str, expected: str) -> None:
    assert origin(address) == expected
