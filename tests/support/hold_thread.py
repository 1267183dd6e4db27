"""Stops one thread of another process until standard input, or the thread, ends: hold_thread.py TID.

The other threads run on. SIGSTOP stops a whole process; ptrace(2) can hold one thread of it.
"""

from __future__ import annotations

import ctypes
import os
import select
import sys

PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH = 0x4206, 0x4207, 17
WALL = 0x40000000  # __WALL: threads, too

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def ptrace(request: int, tid: int) -> None:
    if libc.ptrace(request, tid, None, None) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"ptrace({request:#x}): {os.strerror(number)}")


def main() -> None:
    tid = int(sys.argv[1])
    ptrace(PTRACE_SEIZE, tid)
    ptrace(PTRACE_INTERRUPT, tid)
    os.waitpid(tid, WALL)
    print("held", flush=True)
    while not select.select([sys.stdin], [], [], 0.05)[0]:
        ended, how = os.waitpid(tid, WALL | os.WNOHANG)
        if ended and not os.WIFSTOPPED(how):
            return  # the process was killed; it could not go before its thread was waited for
    ptrace(PTRACE_DETACH, tid)


main()
