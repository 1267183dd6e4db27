"""What a logical unit of the embedded target is to be, and what is to be wrong with it."""

from __future__ import annotations

from dataclasses import dataclass

from virtiod.core.errors import InvalidArgument
from virtiod.core.sizes import parse_size
from virtiod.target.scsi.lun import FAULTS

_NUMBERS = {"after": 10, "every": 10, "times": 10, "delay": 10, "opcode": 16, "key": 16, "asc": 16, "ascq": 16}
_NUMBERS |= {"value": 16, "descriptor": 10, "deferred": 10, "length": 10}
_FIELDS = {"delay": "delay_us", "length": "sense_length"}


@dataclass(frozen=True)
class LunFault:
    """How to spoil commands, of one opcode or all: see TargetLun.fault.

    value: what SCSI status (BUSY 8, TASK SET FULL 28h) or virtio response to give. deferred: the sense is of an
    earlier command.
    """

    kind: str = ""
    after: int = 0
    every: int = 0
    times: int = 0
    delay_us: int = 0
    opcode: int | None = None
    key: int = 0
    asc: int = 0
    ascq: int = 0
    value: int = 0
    descriptor: bool = False
    deferred: bool = False
    sense_length: int = 18

    @classmethod
    def parse(cls, text: str) -> LunFault:
        """From "KIND[,SETTING=N]..."; raises InvalidArgument.

        Settings are after, every, times, delay (us), length (of the sense data), descriptor and deferred, in decimal;
        opcode, key, asc, ascq and value in hexadecimal.
        """
        kind, *settings = text.split(",")
        values: dict[str, int] = {}
        for setting in settings:
            name, _, value = setting.partition("=")
            try:
                values[_FIELDS.get(name, name)] = int(value, _NUMBERS[name])
            except (KeyError, ValueError) as error:
                raise InvalidArgument(f"fault {text!r}: {setting!r} is none of {', '.join(_NUMBERS)} = N") from error
        if kind == "delay":
            kind = ""
        if kind not in FAULTS:
            known = ", ".join(sorted({"delay", *FAULTS} - {""}))
            raise InvalidArgument(f"fault {text!r}: must begin with one of {known}")
        return cls(kind, **values)  # type: ignore[arg-type]


@dataclass(frozen=True)
class LunSpec:
    """A LUN to make. size in bytes (None: the file's); with neither memory nor path it is a null disk.

    write_cache: as its mode page says. cache: what was written to the file is in this process's memory only until it is
    flushed. stopped: not ready until START STOP UNIT. Limits in blocks.
    """

    size: int | None = None
    memory: bool = False
    path: str = ""
    block_size: int = 512
    serial: str = ""
    read_only: bool = False
    write_cache: bool = True
    cache: bool = False
    stopped: bool = False
    max_unmap: int = 1 << 22
    max_descriptors: int = 16
    max_same: int = 1 << 16
    fault: LunFault = LunFault()

    def check(self) -> None:
        """Raise InvalidArgument for what can't be."""
        if self.block_size not in {512, 1024, 2048, 4096}:
            raise InvalidArgument(f"block size {self.block_size}: must be 512, 1024, 2048 or 4096")
        if self.size is not None and (self.size <= 0 or self.size % self.block_size):
            raise InvalidArgument(f"size {self.size}: must be a positive multiple of the block size {self.block_size}")
        if self.size is None and not self.path:
            raise InvalidArgument("size: needed for a LUN without a file")
        if self.cache and not (self.path and self.write_cache):
            raise InvalidArgument("a cache: only for a LUN in a file, with a write cache")
        if not self.serial.isascii() or len(self.serial) > 64:
            raise InvalidArgument(f"serial {self.serial!r}: at most 64 ASCII characters")

    @classmethod
    def parse(cls, text: str, fault: LunFault) -> LunSpec:
        """From SIZE (in memory), null:SIZE or file:PATH; raises InvalidArgument."""
        kind, colon, rest = text.partition(":")
        if colon and kind == "file" and rest:
            return cls(path=rest, fault=fault)
        if colon and kind == "null":
            return cls(parse_size(rest), fault=fault)
        return cls(parse_size(text), memory=True, fault=fault)


def parse_luns(text: str, fault: LunFault) -> dict[int, dict[int, LunSpec]]:
    """Targets of "TARGET:LUN=SPEC,..."; a spec's path can't have a comma. Raises InvalidArgument."""
    targets: dict[int, dict[int, LunSpec]] = {}
    for part in text.split(","):
        where, equals, spec = part.partition("=")
        target, colon, lun = where.partition(":")
        if not (equals and colon and target.isdecimal() and lun.isdecimal()):
            raise InvalidArgument(
                f"LUN {part!r}: must be TARGET:LUN=SIZE, TARGET:LUN=null:SIZE or TARGET:LUN=file:PATH"
            )
        luns = targets.setdefault(int(target), {})
        if int(lun) in luns:
            raise InvalidArgument(f"LUN {target}:{lun}: given twice")
        luns[int(lun)] = LunSpec.parse(spec, fault)
    return targets
