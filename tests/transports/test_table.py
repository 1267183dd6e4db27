"""The table of transports, and what it must agree with."""

from __future__ import annotations

from typing import get_args

from virtiod.controllers.manager import KINDS
from virtiod.transports.table import TRANSPORTS, Trtype, trtype_of
from virtiod.virtio.features import DEVICE_FEATURES, DevType


def test_parameters_name_every_transport_and_every_kind_of_device() -> None:
    assert set(get_args(Trtype)) == set(TRANSPORTS)
    assert set(get_args(DevType)) == set(KINDS) == set(DEVICE_FEATURES)


def test_an_address_tells_its_transport() -> None:
    assert trtype_of("0000:00:05.0") == "pci"
    assert trtype_of("/run/disk.sock") == trtype_of("disk.sock") == "user"
