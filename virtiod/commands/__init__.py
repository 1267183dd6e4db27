"""The sub-commands of `virtiod`, a module each.

A module has a one-line docstring (shown by --help), `add_arguments(parser)` and `run(args) -> int`, which returns
the exit status and may raise VirtiodError.
"""
