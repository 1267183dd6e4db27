"""Methods about the daemon's log."""

from __future__ import annotations

from typing import Annotated, Literal

from virtiod.api.errors import INVALID_PARAMS, RpcError
from virtiod.api.params import Arg, Name
from virtiod.api.registry import State, method
from virtiod.api.results.log import LogState
from virtiod.api.services import Logs
from virtiod.core.described import Member
from virtiod.core.errors import InvalidArgument

Level = Annotated[Literal["ERROR", "WARNING", "NOTICE", "INFO", "DEBUG"], Arg("log level", "level")]
LevelNow = Annotated[str, Member("log level: ERROR, WARNING, NOTICE, INFO or DEBUG")]
NO_FLAG = {INVALID_PARAMS: "there is no such flag"}
Flag = Annotated[str, Name('part of the daemon, as listed by log_get_flags, or "all"', "flag")]


@method(State.ANY, reads=True)
async def log_get_level(logs: Logs) -> LevelNow:
    """Returns the level from which messages are made."""
    return logs.level


@method(State.ANY)
async def log_set_level(logs: Logs, level: Level) -> bool:
    """Sets the level from which messages are made."""
    logs.level = level
    return True


@method(State.ANY, reads=True)
async def log_get_print_level(logs: Logs) -> LevelNow:
    """Returns the level from which messages are printed on standard error."""
    return logs.print_level


@method(State.ANY)
async def log_set_print_level(logs: Logs, level: Level) -> bool:
    """Sets the level from which messages are printed on standard error."""
    logs.print_level = level
    return True


@method(State.ANY, reads=True)
async def log_get_flags(logs: Logs) -> Annotated[dict[str, bool], Member("by flag: whether it is set")]:
    """Returns which parts of the daemon log everything, whatever the levels are."""
    return logs.flags()


@method(State.ANY, errors=NO_FLAG)
async def log_set_flag(logs: Logs, flag: Flag) -> bool:
    """Has a part of the daemon log everything."""
    _set_flag(logs, flag, True)
    return True


@method(State.ANY, errors=NO_FLAG)
async def log_clear_flag(logs: Logs, flag: Flag) -> bool:
    """Ends what log_set_flag began."""
    _set_flag(logs, flag, False)
    return True


@method(State.ANY, reads=True)
async def virtiod_get_log(logs: Logs) -> LogState:
    """Returns how many messages could not be written to the log."""
    return LogState(dropping=logs.dropping, dropped=logs.dropped)


def _set_flag(logs: Logs, flag: str, on: bool) -> None:
    try:
        logs.set_flag(flag, on)
    except InvalidArgument as error:
        raise RpcError(INVALID_PARAMS, str(error)) from error
