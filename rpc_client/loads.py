"""What went wrong in a load that was done: its answer is a result, whatever became of its I/O."""

from __future__ import annotations

from typing import Any

from rpc_client.printing import counted, printable
from rpc_client.tables import MALFORMED

_LOAD = "perform_tests"


def trouble_of(method: str, result: Any) -> str:
    """What it says of each job that had trouble: "B0: 3 I/Os failed (9 I/Os ended)"; "" for none, and for no load."""
    if method != _LOAD:
        return ""
    try:
        return printable("; ".join(_of_job(job) for job in result["results"] if job["status"] != "finished"))
    except MALFORMED:
        return "the result is not as described"


def _of_job(job: dict[str, Any]) -> str:
    parts = [f"{counted(job['io_failed'], 'I/O')} failed"] if job["io_failed"] else []
    parts += [f"{job['io_mismatched']} read other data than was written"] if job["io_mismatched"] else []
    parts += ["ended before its time"] if job["status"] == "terminated" else []
    return f"{job['job']}: {', '.join(parts) or job['status']} ({counted(job['ios'], 'I/O')} ended)"
