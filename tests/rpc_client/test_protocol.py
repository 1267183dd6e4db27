"""Requests and answers without a connection."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rpc_client import Access, BadReply, ConnectFailed
from rpc_client.protocol import Answer, Lines, Session, allowance
from rpc_client.url import Target


def asking(*methods: str) -> Session:
    """A session in which these were called, with ids from 1."""
    session = Session()
    for number, method in enumerate(methods, 1):
        assert session.request(method, None)[0] == number
    return session


def reply(**members: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", **members}).encode()


def test_a_request_has_an_id_of_its_own_and_parameters_only_if_there_are_some() -> None:
    session = Session()
    assert json.loads(session.request("a", {"x": 1})[1]) == {
        "jsonrpc": "2.0",
        "method": "a",
        "id": 1,
        "params": {"x": 1},
    }
    assert json.loads(session.request("b", {})[1]) == {"jsonrpc": "2.0", "method": "b", "id": 2}


def test_answers_come_in_any_order_and_each_goes_to_its_call() -> None:
    session = asking("a", "b", "c")
    assert session.answers(reply(id=3, result=[1])) == [Answer(3, [1])]
    assert session.answers(reply(id=1, result=None)) == [Answer(1, None)]
    (failed,) = session.answers(reply(id=2, error={"code": -19, "message": "gone", "data": 7}))
    assert failed.error is not None
    assert (failed.id, failed.error.method, failed.error.code, failed.error.data) == (2, "b", -19, 7)
    assert str(failed.error) == "b: gone (-19)"


def test_an_error_that_names_no_call_is_that_of_all() -> None:
    session = asking("a", "b")
    answers = session.answers(reply(id=None, error={"code": -32700, "message": "Parse error"}))
    assert [(answer.id, str(answer.error)) for answer in answers] == [
        (1, "a: Parse error (-32700)"),
        (2, "b: Parse error (-32700)"),
    ]


def test_the_answer_to_a_call_that_was_dropped_is_taken_once() -> None:
    session = asking("a", "b")
    session.drop(1)
    assert session.answers(reply(id=1, result=1)) == []
    with pytest.raises(BadReply, match="b: the answer is for request 1, not for 2"):
        session.answers(reply(id=1, result=1))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"hello", "the answer is not JSON"),
        (b"[" * 100_000, "the answer is not JSON"),
        (b"[]", "a: the answer must have either a result or an error"),
        (reply(id=1), "must have either a result or an error"),
        (reply(id=1, result=1, error={"code": 1}), "must have either a result or an error"),
        (reply(id=1, error="bad"), "a: the answer's error has no code"),
        (reply(id=1, error=None), "the answer's error has no code"),
        (reply(id=None, result=1), "a: the answer is for request None, not for 1"),
        (reply(id=7, result=1), "the answer is for request 7, not for 1"),
        (reply(id=[1], result=1), "the answer is for request [1], not for 1"),
        (reply(id="1", error={"code": -1}), "the answer is for request '1', not for 1"),
    ],
)
def test_what_answers_nothing_is_refused(line: bytes, message: str) -> None:
    with pytest.raises(BadReply) as caught:
        asking("a").answers(line)
    assert message in str(caught.value)


@pytest.mark.parametrize("piece", [1, 2, 5, 100])
def test_lines_are_cut_wherever_pieces_are(piece: int) -> None:
    lines, data = Lines(), b'{"id":1}\n\n{"id":2}\n{"i'
    found = [line for start in range(0, len(data), piece) for line in lines.feed(data[start : start + piece])]
    assert found == [b'{"id":1}', b"", b'{"id":2}']


@pytest.mark.parametrize("data", [b"12345678", b"1\n12345678", b"12345678\n1"])
def test_a_line_that_is_too_long_is_refused_before_its_end(data: bytes) -> None:
    assert Lines(8).feed(data) == data.split(b"\n")[:-1]
    with pytest.raises(BadReply, match="more than 7 bytes"):
        Lines(7).feed(data)


def test_what_is_asked_to_take_its_time_may() -> None:
    assert allowance(60, {"time_s": 120}) == 180
    assert [allowance(60, params) for params in (None, {}, {"time_s": None}, {"time_s": "x"})] == [60] * 4


# ---- URLs


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("http://127.0.0.1:9799", "http://127.0.0.1:9799/rpc"),
        ("https://storage1:9799/", "https://storage1:9799/"),
        ("https://storage1/other?x=1", "https://storage1/other?x=1"),
    ],
)
def test_the_path_is_rpc_unless_the_url_says_another(url: str, path: str) -> None:
    assert Target(url, Access()).url == path


@pytest.mark.parametrize(
    ("access", "header"),
    [
        (Access(), None),
        (Access(token="secret"), "Bearer secret"),
        (Access(credentials=("alice", "päss")), "Basic YWxpY2U6cMOkc3M="),
    ],
)
def test_who_one_is(access: Access, header: str | None) -> None:
    assert Target("https://storage1", access).authorization == header


@pytest.mark.parametrize("url", ["http://storage1", "http://127.0.0.1@storage1/rpc", "http://192.0.2.1:9799"])
def test_a_token_does_not_travel_in_the_open(url: str) -> None:
    with pytest.raises(ConnectFailed, match="only sent over https"):
        Target(url, Access(token="secret")).check_secrecy()
    Target(url, Access()).check_secrecy()


@pytest.mark.parametrize("url", ["https://storage1", "http://localhost:9799", "http://[::1]", "http://u@127.0.0.2"])
def test_a_token_may_travel_within_the_host_and_over_tls(url: str) -> None:
    Target(url, Access(token="secret")).check_secrecy()


def test_a_response_that_holds_no_reply_is_told_in_one_line() -> None:
    target = Target("https://storage1", Access())
    assert target.reply(200, "OK", b"x") == b"x"
    assert target.reply(400, "Bad Request", b' {"error":1}') == b' {"error":1}'
    for body, message in (
        (b"no token\nmore", "https://storage1/rpc: 401 Unauthorized: no token"),
        (b"\x1b[31m", "https://storage1/rpc: 401 Unauthorized"),
        (b"", "https://storage1/rpc: 401 Unauthorized"),
    ):
        with pytest.raises(ConnectFailed) as caught:
            target.reply(401, "Unauthorized", body)
        assert str(caught.value) == message
