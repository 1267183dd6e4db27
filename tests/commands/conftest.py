from __future__ import annotations

from tests.pci.conftest import host

__all__ = ["host"]
