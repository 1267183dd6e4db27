"""Targets are killed with SIGKILL while NBD clients use them through virtiod; nothing that was acknowledged may go.

`python -m tests.crash --help` runs it for as long as one likes; test_crash.py is CI's share.

| module | what it is |
|---|---|
| `stamp` | what a written block holds: the name of the write |
| `history` | requests and kills, in one order |
| `oracle` | the rule: what a read may return after all that |
| `finding` | what can be found |
| `plan` | what a run does, drawn from its seed |
| `processes` | starting and killing them |
| `targets` | qemu-storage-daemon and the embedded target: start, kill, read the image without them |
| `client` | an NBD client that sends without waiting |
| `turns` | who must wait for whom, where a target can't take requests side by side |
| `users` | clients that do random I/O, and the kill at its moment |
| `rig` | the system under test, and whether anything of a run is left in it |
| `run` | one run: a target killed again and again |
| `report` | what was found, counted and printed |
"""
