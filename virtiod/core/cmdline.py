"""Options of a command, each described once: where its value is kept.

    @dataclass(frozen=True)
    class Options:
        memory_mib: Annotated[int, Opt("-s", "DMA memory (default: %(default)s)", "MIB", parse=within(8, 1024))] = 256

From such a class come the arguments of argparse (and with them --help, manual pages and completions), the checks, and
an object with the values in their types.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Iterator
from types import NoneType
from typing import TYPE_CHECKING, Annotated, TypeVar, cast, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Described = TypeVar("Described", bound=DataclassInstance)

_FIELD = object()  # default: the field's
_TYPES: dict[object, Callable[[str], object]] = {int: int, float: float}  # what argparse converts by itself


@dataclasses.dataclass(frozen=True)
class Opt:
    """What the field of an option does not say.

    flags: "-r/--rpc-socket", or "sockets" for a positional argument. group: the heading that --help shows it below.
    excludes: options with the same word here exclude each other. parse: checks and converts what was given; raises
    ArgumentTypeError, a usage error. convert: does so later, with the default, too; raises VirtiodError. default: the
    value, as text, of an option that is not given, if that is not the field's default.
    """

    flags: str
    help: str | None = None
    metavar: str | None = None
    group: str = ""
    excludes: str = ""
    choices: tuple[str, ...] | None = None
    parse: Callable[[str], object] | None = None
    convert: Callable[[str], object] | None = None
    default: object = _FIELD


@dataclasses.dataclass(frozen=True)
class Made:
    """Says that `by` makes the field's value from all arguments, not from one option; `by` raises VirtiodError.

    Its options that are not given are None, unless they say otherwise.
    """

    by: Callable[[argparse.Namespace], object]


@dataclasses.dataclass(frozen=True)
class _Field:
    """A field with its options. kind: the type of its value, without None."""

    name: str
    kind: object
    opts: tuple[Opt, ...]
    made: Made | None
    default: object

    def dest(self, opt: Opt) -> str:
        """The argument's name. Several options of one field have names of their own."""
        return self.name if len(self.opts) == 1 else opt.flags.rpartition("--")[2].replace("-", "_")


def _fields(described: type[DataclassInstance]) -> Iterator[_Field]:
    hints = get_type_hints(described, include_extras=True)
    for field in dataclasses.fields(described):
        if get_origin(hints[field.name]) is not Annotated:
            continue
        hint, *notes = get_args(hints[field.name])
        kinds = [kind for kind in get_args(hint) if kind is not NoneType]
        yield _Field(
            field.name,
            kinds[0] if NoneType in get_args(hint) else hint,
            tuple(note for note in notes if isinstance(note, Opt)),
            next((note for note in notes if isinstance(note, Made)), None),
            None if field.default is dataclasses.MISSING else field.default,
        )


def add_arguments(parser: argparse.ArgumentParser, described: type[DataclassInstance]) -> None:
    """Adds the options of a dataclass to a parser, in the order of its fields."""
    groups: dict[tuple[str, str], argparse._ArgumentGroup] = {}
    for field in _fields(described):
        for opt in field.opts:
            where: argparse._ActionsContainer = parser
            if opt.group or opt.excludes:
                key = opt.group, opt.excludes
                if key not in groups:
                    exclusive = parser.add_mutually_exclusive_group
                    groups[key] = exclusive() if opt.excludes else parser.add_argument_group(opt.group)
                where = groups[key]
            _add(where, field, opt)


def _add(where: argparse._ActionsContainer, field: _Field, opt: Opt) -> None:
    if not opt.flags.startswith("-"):
        where.add_argument(field.name, nargs="+", metavar=opt.metavar, help=opt.help)
    elif field.kind is bool:
        where.add_argument(*opt.flags.split("/"), dest=field.dest(opt), action="store_true", help=opt.help)
    else:
        where.add_argument(
            *opt.flags.split("/"),
            dest=field.dest(opt),
            type=opt.parse or (str if opt.convert else _TYPES.get(field.kind, str)),
            choices=opt.choices,
            metavar=opt.metavar,
            default=(None if field.made else field.default) if opt.default is _FIELD else opt.default,
            help=opt.help,
        )


def options_from(described: type[Described], args: argparse.Namespace) -> Described:
    """The values that were given or are the defaults. Raises VirtiodError, which names what is not valid."""
    values = {field.name: _value(field, args) for field in _fields(described)}
    return cast("Callable[..., Described]", described)(**values)


def _value(field: _Field, args: argparse.Namespace) -> object:
    if field.made:
        return field.made.by(args)
    (opt,) = field.opts
    given: object = getattr(args, field.dest(opt))
    if given is None:
        return field.default
    return opt.convert(given) if opt.convert and isinstance(given, str) else given


def describe(options: DataclassInstance) -> str:
    """All values as one line of JSON, for the log."""
    return json.dumps(dataclasses.asdict(options), default=sorted)  # sets are what JSON does not know


def within(low: int, high: int) -> Callable[[str], int]:
    """A function for parse: takes integers from low to high."""

    def integer(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"must be an integer from {low} to {high}, not {text!r}")
        return int(text)

    return integer


def seconds(text: str) -> float:
    """A function for parse: takes seconds from 0 to a day."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 86400:
        raise argparse.ArgumentTypeError(f"must be seconds from 0 to 86400, not {text!r}")
    return value
