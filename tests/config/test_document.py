"""The form of a configuration file: what is accepted, and what is said of the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.config.documents import document
from virtiod.config.document import Source, parse_config, read_config
from virtiod.core.errors import InvalidArgument


def test_calls_come_in_their_order_with_batches_flattened() -> None:
    calls = parse_config(
        {
            "comment": "ignored",
            "subsystems": [
                {"subsystem": "keyring", "config": []},
                {"subsystem": "vmd", "config": None},
                {"subsystem": "bdev", "config": [{"method": "a"}, [{"method": "b", "params": {"x": 1}}]]},
            ],
        },
        Source("f"),
    )
    assert [(call.where, call.method, call.params) for call in calls] == [
        ("f: subsystems[2].config[0]", "a", {}),
        ("f: subsystems[2].config[1][0]", "b", {"x": 1}),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "top level: must be an object"),
        ({}, "top level: has no 'subsystems'"),
        ({"subsystems": {}}, "subsystems: 'subsystems' must be an array"),
        ({"subsystems": [1]}, "subsystems[0]: must be an object"),
        ({"subsystems": [{}]}, "subsystems[0]: has no 'subsystem'"),
        ({"subsystems": [{"subsystem": "bdev", "config": {}}]}, "subsystems[0].config: 'config' must be an array"),
        (document(1), "subsystems[0].config[0]: must be an object"),
        (document([{}]), "subsystems[0].config[0][0]: has no 'method'"),
        (document({"method": 1}), "'method' must be a string"),
        (document({"method": "a", "params": []}), ""),
        (document({"method": "a", "params": [1]}), "config[0].params: 'params' must be an object"),
        (document({"method": "a", "parms": {}}), "config[0].parms: unknown member 'parms'"),
    ],
)
def test_a_form_that_is_wrong_is_named_by_its_path(content: Any, message: str) -> None:
    if not message:
        parse_config(content, Source("f"))
        return
    with pytest.raises(InvalidArgument) as caught:
        parse_config(content, Source("f"))
    assert message in str(caught.value)


def test_a_file_that_cannot_be_read_is_named_with_the_line(tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    with pytest.raises(InvalidArgument, match=r"c\.json: No such file"):
        read_config(str(file))
    file.write_text('{\n  "subsystems": [\n    {"subsystem": "bdev",}\n  ]\n}')
    with pytest.raises(InvalidArgument, match=r"c\.json:3:\d+: "):
        read_config(str(file))
    file.write_bytes(b'{"subsystems": ["\xff"]}')
    with pytest.raises(InvalidArgument, match=r"c\.json: .*codec can't decode"):
        read_config(str(file))
    file.write_text("[" * 100_000)
    with pytest.raises(InvalidArgument, match=r"c\.json: .*recursion"):
        read_config(str(file))


COMMENTED = """// what SPDK's own loader takes
{ /* one
  of two lines */ "subsystems": [ // all
    {"subsystem": "bdev", "config": [
      /* a disk */ {"method": "bdev_null_create", "params": {"name": "http://a/*b*/", "num_blocks": /**/ %s}} // "
    ]} /***/
  ]
}
//"""


def test_comments_are_left_out_but_not_in_strings(tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_text(COMMENTED % 8)
    (call,) = read_config(str(file))
    assert call.params == {"name": "http://a/*b*/", "num_blocks": 8}
    line = COMMENTED.splitlines()[4]
    assert call.where == f"{file}:5:{line.index('{') + 1}: subsystems[0].config[0]"
    column = line.index("%s") + 1
    assert call.where_param("num_blocks") == f"{file}:5:{column}: subsystems[0].config[0].params.num_blocks"
    file.write_bytes((COMMENTED % 8).replace("\n", "\r\n").encode())
    assert [call.method for call in read_config(str(file))] == ["bdev_null_create"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("/* c */ // d\n{\n  /* e */ ]", "3:11: Expecting property name"),
        ('{"a": /* b\n*/\n "c" /* \n */ "e": 2}', "4:5: Expecting ',' delimiter"),
        ("{}\n  /* c *", "2:3: Unterminated comment starting at"),
        ("{} /*/", "1:4: Unterminated comment starting at"),
        ("{} /", "1:4: Extra data"),
        ('{"a": "/* b', "1:7: Unterminated string starting at"),
        ('{"a": "\\" // b', "1:7: Unterminated string starting at"),
        ('{"a": "b // c\n"}', "1:14: Invalid control character at"),
    ],
)
def test_beside_comments_lines_and_columns_are_right(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "c.json"
    file.write_text(text)
    with pytest.raises(InvalidArgument) as caught:
        read_config(str(file))
    assert str(caught.value).startswith(f"{file}:{message}")
