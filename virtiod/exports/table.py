"""All kinds of exports.

To add one, add a package beside this file, a family of RPC methods, and a line here.
"""

from __future__ import annotations

from virtiod.exports.interface import Exports
from virtiod.exports.nbd.exports import NbdExports

EXPORTS: tuple[type[Exports], ...] = (NbdExports,)
