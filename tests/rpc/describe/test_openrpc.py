"""The OpenRPC document: it is one, it says what the methods do, and a daemon answers with it."""

from __future__ import annotations

import asyncio
import json
import re
from hashlib import sha256
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT7

from tests.rpc.methods.conversation import converse
from tests.support.daemon import running
from tests.support.rpc_peer import connected
from virtiod.api.caller import Caller, Role
from virtiod.api.openrpc import document
from virtiod.rpc.methods import METHODS

Json = Any

VENDORED = Path(__file__).with_name("vendor")
DOCUMENT: Json = json.loads(json.dumps(document(METHODS.values())))
BY_NAME = {method["name"]: method for method in DOCUMENT["methods"]}
SOME = list(BY_NAME).index("bdev_get_bdevs")  # one that has parameters


def openrpc_errors(found: Json) -> list[str]:
    """What OpenRPC's own schema has against a document."""
    schema = json.loads((VENDORED / "schema.json").read_text())
    # Its dialect is draft 7 by another name, of which it also takes what a "$ref" is.
    reference = {"JSONSchemaObject": {"properties": {"$ref": {"type": "string", "format": "uri-reference"}}}}
    dialect = {**jsonschema.Draft7Validator.META_SCHEMA, "$id": "https://meta.json-schema.tools"}
    dialect["definitions"] = {**dialect["definitions"], **reference}
    resource: Resource[Json] = DRAFT7.create_resource(dialect)
    registry: Registry[Json] = Registry().with_resources(
        (uri, resource) for uri in ("https://meta.json-schema.tools", "https://meta.json-schema.tools/")
    )
    validator = jsonschema.Draft7Validator(schema, registry=registry)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(found)]


def resolved(schema: Json) -> Json:
    """A schema of the document, with the components that it refers to."""
    return {**schema, "components": DOCUMENT["components"]}


def nested(value: Json) -> list[Json]:
    """All objects within a value, and itself."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [value, *(one for item in inner for one in nested(item))]


def test_the_vendored_schema_is_unchanged() -> None:
    rows = re.findall(r"^\| `(.*)` \| `([0-9a-f]{64})` \|$", (VENDORED / "README.md").read_text(), re.MULTILINE)
    files = [path for path in VENDORED.iterdir() if path.name != "README.md"]
    assert dict(rows) == {path.name: sha256(path.read_bytes()).hexdigest() for path in files}


def test_it_is_a_document_by_openrpcs_own_schema() -> None:
    assert openrpc_errors(DOCUMENT) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("openrpc",), "2.0.0"),
        (("info", "version"), 1),
        (("methods", SOME, "params", 0, "schema", "type"), "text"),
        (("methods", SOME, "params", 0, "more"), 1),
        (("methods", 0, "errors", 0, "code"), "EIO"),
        (("methods", 0, "result", "name"), ""),
        (("components", "schemas", "Bdev", "required"), "name"),
    ],
)
def test_what_is_no_document_is_found(path: tuple[str | int, ...], value: object) -> None:
    spoilt = json.loads(json.dumps(DOCUMENT))
    at = spoilt
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    assert openrpc_errors(spoilt)


def test_rules_of_the_specification_that_its_schema_does_not_have_are_kept() -> None:
    assert len(BY_NAME) == len(DOCUMENT["methods"])
    for method in DOCUMENT["methods"]:
        required = [param["required"] for param in method["params"]]
        assert required == sorted(required, reverse=True), f"{method['name']}: required parameters come first"
        for unique in ([param["name"] for param in method["params"]], [error["code"] for error in method["errors"]]):
            assert len(set(unique)) == len(unique), method["name"]
    for reference in [value["$ref"] for value in nested(DOCUMENT) if isinstance(value, dict) and "$ref" in value]:
        assert reference.removeprefix("#/components/schemas/") in DOCUMENT["components"]["schemas"]


def test_its_schemas_are_schemas_in_which_everything_is_described() -> None:
    for method in DOCUMENT["methods"]:
        assert method["summary"].endswith(".")
        for described in [*method["params"], method["result"]]:
            jsonschema.Draft7Validator.check_schema(resolved(described["schema"]))
        assert all(param["description"] for param in method["params"])
        assert method["result"]["schema"].keys() & {"$ref", "description"}, method["name"]
    for name, schema in DOCUMENT["components"]["schemas"].items():
        jsonschema.Draft7Validator.check_schema(resolved(schema))
        assert schema["description"].endswith(".")
        assert all(member["description"] for member in schema["properties"].values()), name


def test_what_methods_answer_is_what_they_describe(run_dir: Path) -> None:
    for method, params, line in converse(run_dir):
        validator = jsonschema.Draft7Validator(resolved(BY_NAME[method]["result"]["schema"]))
        validator.validate(json.loads(line)["result"])
        by_name = {param["name"]: param["schema"] for param in BY_NAME[method]["params"]}
        for name, value in params.items():
            jsonschema.Draft7Validator(by_name[name]).validate(value)


def test_states_roles_and_errors_are_told() -> None:
    iostat, options, attach = (
        BY_NAME[name] for name in ("bdev_get_iostat", "bdev_set_options", "bdev_virtio_attach_controller")
    )
    assert (iostat["x-role"], iostat["x-admin-params"], iostat["x-states"]) == (
        "read-only",
        ["reset_mode"],
        ["runtime"],
    )
    assert (options["x-role"], options["x-states"]) == ("admin", ["startup"])
    assert BY_NAME["spdk_get_version"]["x-aliases"] == ["virtiod_get_version"]
    assert {error["code"]: error["message"] for error in attach["errors"]} == {
        -32001: "it changed something, which could not be saved",
        -32603: "parameters that do not fit",
        -32602: "the device could not be attached, or parameters that are not valid",
        -22: "an address that is not valid, or options that the transport does not take",
        -17: "another controller drives the device already",
        -13: "it needs the role admin",
        -1: "it can't be called now",
    }
    assert not {error["code"] for error in BY_NAME["log_get_level"]["errors"]} & {-1, -13, -32001}


def test_a_daemon_answers_with_it_at_any_time_to_readers_too(run_dir: Path) -> None:
    async def run() -> None:
        async with running(run_dir, wait_for_rpc=True) as daemon, connected(run_dir) as peer:
            assert await peer.result("rpc.discover") == DOCUMENT
            request = {"method": "rpc.discover", "id": 1}
            answer: Json = await daemon.rpc.handle(request, Caller("grafana", Role.READ_ONLY))
            assert answer["result"] == DOCUMENT

    asyncio.run(run())


def test_it_has_only_the_methods_that_there_are(run_dir: Path) -> None:
    async def run() -> None:
        allowed = frozenset({"rpc.discover", "log_get_level"})
        async with running(run_dir, rpcs_allowed=allowed), connected(run_dir) as peer:
            found = await peer.result("rpc.discover")
            assert {method["name"] for method in found["methods"]} == allowed
            assert found["components"]["schemas"] == {}
            assert openrpc_errors(found) == []

    asyncio.run(run())
