"""Who uses what a method would end: clients of exports, and loads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rpc_client.client import Client
from rpc_client.errors import BadReply, ClientError, MethodError
from rpc_client.printing import printable
from rpc_client.tables import MALFORMED

_SHOWN = 3  # clients of an export


class InUse(ClientError):
    """Nothing was done, as somebody uses what the method would end."""


def ending(
    client: Client,
    what: str,
    method: str,
    params: dict[str, Any],
    agreed: Callable[[str], bool] | None,
    tell: Callable[[str], None],
) -> Any:
    """Calls a method that ends what its parameter name says (what: its kind); returns the result.

    agreed: asked first when somebody uses it; None: it is ended anyway. tell: told who was cut off.
    """
    name = params["name"]
    users = printable("; ".join(users_of(client, what, name)))
    if users and agreed is not None:
        use = f"{method}: {what} {name} is in use: {users}"
        if not agreed(f"{use}. End it?"):
            raise InUse(f"{use}; nothing was done (--force ends it)")
    result = client.call(method, params)
    if users:
        tell(f"{method}: cut off: {users}")
    return result


def users_of(client: Client, what: str, name: str) -> list[str]:
    """The users of a bdev, a controller or an export (what) by its name, one text for each. Raises ClientError.

    What does not exist has none, nor has anything on a daemon that does not tell.
    """
    try:
        return _FINDERS[what](client, name)
    except MethodError:
        return []  # the call itself will say why
    except MALFORMED as error:
        raise BadReply(f"the answers about {what} {name} are not as described: {error!r}") from error


def _of_bdev(client: Client, name: str) -> list[str]:
    return [_text(user) for bdev in client.call("bdev_get_bdevs", {"name": name}) for user in _using(bdev)]


def _of_controller(client: Client, name: str) -> list[str]:
    (controller,) = client.call("virtiod_get_controllers", {"name": name})
    bdevs = controller.get("bdevs", ())
    found = client.call("bdev_get_bdevs") if bdevs else []
    return [f"{_text(user)}, on {bdev['name']}" for bdev in found if bdev["name"] in bdevs for user in _using(bdev)]


def _of_export(client: Client, name: str) -> list[str]:
    (export,) = client.call("nbd_get_exports", {"name": name})
    bdevs = client.call("bdev_get_bdevs", {"name": export["bdev_name"]})
    users = (user for bdev in bdevs for user in _using(bdev))
    return [_text(user) for user in users if (user["kind"], user["name"]) == ("nbd", name)]


_FINDERS: dict[str, Callable[[Client, str], list[str]]] = {
    "bdev": _of_bdev,
    "controller": _of_controller,
    "export": _of_export,
}


def _using(bdev: dict[str, Any]) -> list[dict[str, Any]]:
    return [user for user in bdev.get("users", ()) if user["access"] != "none"]


def _text(user: dict[str, Any]) -> str:
    if user["kind"] == "load":
        return f"load {user['name']}"
    clients, more = user["clients"][:_SHOWN], len(user["clients"]) - _SHOWN
    names = ", ".join(clients) + (f" and {more} more" if more > 0 else "")
    return f"{user['kind'].upper()} export {user['name']} of {names}"
