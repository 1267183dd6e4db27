"""Print the configuration of a running daemon, for `virtiod run -c`."""

from __future__ import annotations

import argparse
import json

from rpc_client import DEFAULT_ADDRESS, Client, ClientError
from rpc_client.config import save_config
from virtiod.core.errors import VirtiodError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-r",
        "--rpc-socket",
        metavar="PATH",
        default=DEFAULT_ADDRESS,
        help="RPC socket of the daemon (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Asks the daemon, and prints a document as SPDK's save_config does."""
    try:
        with Client(args.rpc_socket) as client:
            document = save_config(client)
    except ClientError as error:
        raise VirtiodError(str(error)) from error
    print(json.dumps(document, indent=2))
    return 0
