"""The levels of the log, by the names that operators of SPDK know."""

from __future__ import annotations

import logging

NOTICE = 25  # changes, and other things that an operator wants to know
LEVELS = {
    "ERROR": logging.ERROR,
    "WARNING": logging.WARNING,
    "NOTICE": NOTICE,
    "INFO": logging.INFO,
    "DEBUG": logging.DEBUG,
}
