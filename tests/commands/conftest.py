"""The fixture of a PCI host that is made of files."""

from __future__ import annotations

from tests.support.fake_pci_host import host

__all__ = ["host"]
