"""The file of tokens: what it may say, who may own it, and who a header belongs to."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from tests.support.callers import ADMIN, HASH, READER, basic, written
from virtiod.api.caller import Caller, Role
from virtiod.core.errors import InvalidArgument
from virtiod.http.security.tokens import Tokens, parse_tokens


@pytest.mark.parametrize(
    ("header", "name"),
    [
        (f"Bearer {READER}", "grafana"),
        (f"bearer  {ADMIN} ", "alice"),
        (basic("grafana", READER), "grafana"),
        (basic("alice", ADMIN), "alice"),
        (basic("alice", READER), None),  # another's token
        (basic("", READER), None),
        (basic("bob", ADMIN), None),
        (f"Bearer {READER[:-1]}", None),
        (f"Bearer {READER}x", None),
        (f"Bearer {HASH}", None),
        (f"Bearer sha256:{HASH}", None),
        (f"Digest {READER}", None),
        (READER, None),
        ("", None),
        ("Bearer", None),
        ("Bearer \udcff\udcfe", None),
        ("Basic", None),
        ("Basic !!!", None),
        ("Basic " + base64.b64encode(READER.encode()).decode(), None),
        (f"Bearer {READER}{' ' * 2000}", None),
    ],
)
def test_a_header_belongs_to_whoever_has_its_token(run_dir: Path, header: str, name: str | None) -> None:
    found = Tokens(written(run_dir / "tokens")).find(header)
    assert (
        found == {"grafana": Caller("grafana", Role.READ_ONLY), "alice": Caller("alice", Role.ADMIN), None: None}[name]
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "f: has no token"),
        ("# none\n", "f: has no token"),
        (f"\nadmin {ADMIN}\n", "f:2: must be ROLE NAME TOKEN"),
        (f"admin a {ADMIN} x", "f:1: must be ROLE NAME TOKEN"),
        (f"root a {ADMIN}", "f:1: the role must be read-only or admin"),
        (f"admin a:b {ADMIN}", "f:1: a name has 1 to 64 letters, digits and . _ @ -"),
        (f"admin {'a' * 65} {ADMIN}", "f:1: a name has 1 to 64 letters, digits and . _ @ -"),
        ("admin a short", "f:1: the token has fewer than 16 characters"),
        ("admin a sha256:12", "f:1: sha256: must be followed by 64 hexadecimal digits"),
        (f"admin a {ADMIN}\nadmin b {ADMIN}", "f:2: the name or the token was given before"),
        (f"admin a {ADMIN}\nread-only a {READER}", "f:2: the name or the token was given before"),
        (f"admin a {ADMIN}é", "f: not ASCII"),
    ],
)
def test_what_does_not_fit_is_named_by_its_line_and_not_shown(content: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        parse_tokens(content.encode(), "f")
    assert str(refusal.value) == message


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_file_that_others_may_use_is_refused(run_dir: Path, mode: int) -> None:
    path = written(run_dir / "tokens", mode=mode)
    with pytest.raises(InvalidArgument, match=rf"--http-tokens {path}: mode 0{mode:o} lets others use it \(chmod 600"):
        Tokens(path)


def test_a_file_of_another_user_is_refused(run_dir: Path) -> None:
    path = written(run_dir / "tokens")
    if os.geteuid():
        pytest.skip("only root can give files away")
    os.chown(path, 12345, -1)
    with pytest.raises(InvalidArgument, match="belongs to user 12345, not to root or virtiod's own"):
        Tokens(path)


def test_what_is_not_a_file_is_refused(run_dir: Path) -> None:
    with pytest.raises(InvalidArgument, match=f"--http-tokens {run_dir}: Is a directory"):
        Tokens(str(run_dir))
    with pytest.raises(InvalidArgument, match="--http-tokens /nowhere: No such file or directory"):
        Tokens("/nowhere")


def test_credentials_of_systemd_are_named_and_may_have_an_access_list(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(run_dir / "tokens", mode=0o440)
    with pytest.raises(InvalidArgument, match="credential:tokens: systemd passed no credentials"):
        Tokens("credential:tokens")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(run_dir))
    assert len(Tokens("credential:tokens").entries) == 2
    for name in ("", "..", "../tokens", "a/b"):
        with pytest.raises(InvalidArgument, match="not the name of a credential"):
            Tokens(f"credential:{name}")
    written(run_dir / "tokens", mode=0o444)
    with pytest.raises(InvalidArgument, match="mode 0444 lets others use it"):
        Tokens("credential:tokens")


def test_reloading_takes_the_new_ones_and_keeps_the_old_ones_when_it_fails(run_dir: Path) -> None:
    path = written(run_dir / "tokens")
    tokens = Tokens(path)
    written(run_dir / "tokens", f"admin bob {READER}\n")
    tokens.reload()
    assert tokens.find(f"Bearer {READER}") == Caller("bob", Role.ADMIN)
    assert tokens.find(f"Bearer {ADMIN}") is None
    written(run_dir / "tokens", "nonsense\n")
    with pytest.raises(InvalidArgument):
        tokens.reload()
    assert tokens.find(f"Bearer {READER}") == Caller("bob", Role.ADMIN)
