"""Tells when something comes to a path (inotify(7)), also when the folders on the way to it come later.

It is a hint, for who would look from time to time anyway: what happens behind symbolic links, or to folders
further up, may go unseen.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from virtiod.core import libc

log = logging.getLogger(__name__)

_ATTRIB, _MOVED_TO, _CREATE, _DELETE_SELF, _MOVE_SELF = 0x4, 0x80, 0x100, 0x400, 0x800
_OVERFLOW, _IGNORED, _ONLYDIR = 0x4000, 0x8000, 0x01000000
_COMES = _CREATE | _MOVED_TO | _ATTRIB  # to a name in a folder; ATTRIB: its mode may be another
_GOES = _DELETE_SELF | _MOVE_SELF  # the folder itself
_ENDS = _GOES | _IGNORED | _OVERFLOW  # the watch is of no use any more, or nobody knows what has happened
_EVENT = struct.Struct("iIII")  # watch, events, cookie, length of the name
_READ_BYTES = 64 << 10

# Called with what happened to a folder, and the name in it.
Listener = Callable[[int, str], None]


class _Folders:
    """The watches of this process: one file descriptor for all, which is open while there are any."""

    def __init__(self) -> None:
        self._fd = -1
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listeners: dict[int, list[Listener]] = {}

    def add(self, folder: str, listener: Listener) -> int:
        """Raises OSError."""
        if self._fd < 0:
            self._fd, self._loop = libc.inotify_init(), asyncio.get_running_loop()
            self._loop.add_reader(self._fd, self._read)
        try:
            watch = libc.inotify_add_watch(self._fd, folder, _COMES | _GOES | _ONLYDIR)
        except OSError:
            self._close_unless_used()
            raise
        self._listeners.setdefault(watch, []).append(listener)
        return watch

    def remove(self, watch: int, listener: Listener) -> None:
        """A watch that the kernel has ended is no error."""
        listeners = self._listeners.get(watch, [])
        if listener in listeners:
            listeners.remove(listener)
        if watch in self._listeners and not listeners:
            del self._listeners[watch]
            libc.inotify_rm_watch(self._fd, watch)
        self._close_unless_used()

    def _close_unless_used(self) -> None:
        if not self._listeners and self._fd >= 0:
            assert self._loop is not None
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd, self._loop = -1, None

    def _read(self) -> None:
        try:
            data = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return
        for watch, events, name in dict.fromkeys(_events(data)):  # one that repeats itself says nothing new
            if events & _OVERFLOW:
                told = [listener for some in self._listeners.values() for listener in some]
            else:
                told = list(self._listeners.get(watch, []))
            if events & _IGNORED:  # its number is free, and may be given to another
                self._listeners.pop(watch, None)
            for listener in told:
                listener(events, name)
        self._close_unless_used()


def _events(data: bytes) -> Iterator[tuple[int, int, str]]:
    """Watch, events and name of each."""
    at = 0
    while at < len(data):
        watch, events, _, length = _EVENT.unpack_from(data, at)
        at += _EVENT.size + length
        yield watch, events, os.fsdecode(data[at - length : at].rstrip(b"\0"))


_folders = _Folders()


class PathWatch:
    """From its creation to close(). Raises OSError when there can be no watch, as for the limits of fs.inotify."""

    def __init__(self, path: str) -> None:
        self._path = Path(os.path.abspath(path))  # noqa: PTH100 (resolve() would follow links)
        self._came = asyncio.Event()
        self._watch = -1
        self._name = ""  # what is awaited in the folder that is watched
        try:
            self._aim()
        except OSError:
            self.close()
            raise

    async def wait(self, seconds: float) -> bool:
        """Whether something has come to the path, or to a folder on the way to it, since the last call: at once if it
        has, else as soon as it does, or after so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._came.wait()
        came = self._came.is_set()
        self._came.clear()
        return came

    def close(self) -> None:
        """Idempotent."""
        if self._watch >= 0:
            _folders.remove(self._watch, self._told)
            self._watch = -1

    def _aim(self) -> None:
        """Watches the folder that the path is in or, as long as there is none, the deepest one above it."""
        for folder in self._path.parents:
            try:
                watch = _folders.add(str(folder), self._told)
            except (FileNotFoundError, NotADirectoryError):
                continue
            self.close()
            self._watch, self._name = watch, self._path.relative_to(folder).parts[0]
            if folder != self._path.parent and (folder / self._name).is_dir():
                self._aim()  # it came just before it was watched for
            return

    def _told(self, events: int, name: str) -> None:
        if events & _IGNORED:  # as after an unmount: the next watch may have this one's number, and is not to be closed
            self._watch = -1
        if name == self._name or events & _ENDS:
            self._came.set()
            try:
                self._aim()
            except OSError as error:
                self.close()
                log.debug("watch %s: %s", self._path, error.strerror)
