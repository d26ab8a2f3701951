"""The operator's token, keys with roles, and the table of who may use which route."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from shadow_mlops.access import (
    ALLOWED,
    Keyring,
    add_key,
    keyring,
    keys_file,
    named,
    operator_token,
    read_keys,
    require_rules,
    revoke_key,
    token_file,
)
from shadow_mlops.domain.errors import (
    AccessRuleError,
    ConflictError,
    ForbiddenError,
    SettingsError,
    UnauthenticatedError,
)


def test_one_is_made_once_and_is_its_owners_alone(tmp_path):
    data = tmp_path / "data"
    token = operator_token(data, "")
    assert len(token) >= 40
    assert operator_token(data, "") == token
    assert token_file(data).read_text().strip() == token
    assert stat.S_IMODE(token_file(data).stat().st_mode) == 0o600
    assert [path.name for path in data.iterdir()] == ["operator-token"]
    assert operator_token(tmp_path / "other", "") != token


def test_a_loose_umask_opens_it_to_nobody(tmp_path):
    before = os.umask(0)
    try:
        operator_token(tmp_path, "")
    finally:
        os.umask(before)
    assert stat.S_IMODE(token_file(tmp_path).stat().st_mode) == 0o600


def test_processes_that_start_at_once_agree_on_it(tmp_path):
    with ThreadPoolExecutor(16) as threads:
        assert len(set(threads.map(lambda _: operator_token(tmp_path, ""), range(64)))) == 1


def test_a_configured_one_wins_and_is_written_nowhere(tmp_path):
    assert operator_token(tmp_path, "chosen") == "chosen"
    assert list(tmp_path.iterdir()) == []


def test_an_empty_file_lets_nobody_in(tmp_path):
    token_file(tmp_path).write_text("\n")
    with pytest.raises(SettingsError, match="holds no token"):
        operator_token(tmp_path, "")


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="OPERATOR_TOKEN"):
        operator_token(tmp_path / "file", "")


def bearer(secret):
    return {b"authorization": f"Bearer {secret}".encode("latin-1")}


def key(folder: Path, name="ann", role="client", **more) -> str:
    return add_key(folder, name, role, by="ada@host", **more)[1]


@pytest.fixture
def at_once(monkeypatch):
    """A ring looks at its files with every request."""
    monkeypatch.setattr(keyring, "LOOK_SECONDS", 0.0)


@pytest.mark.parametrize("shown", ["Bearer s3cret", "bearer s3cret", "BEARER  s3cret "])
def test_whoever_shows_the_operators_token_passes(tmp_path, shown):
    ring = Keyring(tmp_path, "s3cret")
    for _ in range(2):  # the second time from memory
        assert ring.admit("operator", {b"authorization": shown.encode()}).name == "operator"


@pytest.mark.parametrize(
    "shown", [None, "", "s3cret", "Bearer", "Bearer ", "Bearer s3cre", "Bearer s3cret2", "Basic s3cret", "Bearer \xff"]
)
def test_nobody_else_does(tmp_path, shown):
    ring = Keyring(tmp_path, "s3cret")
    for _ in range(2):
        with pytest.raises(UnauthenticatedError) as caught:
            ring.admit("operator", {} if shown is None else {b"authorization": shown.encode("latin-1")})
    assert "s3cret" not in str(caught.value)
    assert not shown or not shown.startswith("Bearer s") or shown.removeprefix("Bearer ") not in str(caught.value)


def test_no_token_is_no_password(tmp_path):
    with pytest.raises(UnauthenticatedError):
        Keyring(tmp_path).admit("operator", bearer(""))


def test_a_token_that_is_generated_later_or_anew_is_known_without_a_restart(tmp_path, at_once):
    ring = Keyring(tmp_path)
    first = operator_token(tmp_path, "")
    assert ring.admit("operator", bearer(first)).role == "operator"
    token_file(tmp_path).unlink()
    second = operator_token(tmp_path, "")
    assert ring.admit("operator", bearer(second)).role == "operator"
    with pytest.raises(UnauthenticatedError):
        ring.admit("operator", bearer(first))


@pytest.mark.parametrize("may", ["client", "viewer", "operator"])
@pytest.mark.parametrize("role", ["client", "viewer", "operator"])
def test_a_key_opens_what_its_role_may(tmp_path, may, role):
    key(tmp_path, "first", "client")
    secret = key(tmp_path, "ann", role)
    ring = Keyring(tmp_path)
    if role in ALLOWED[may]:
        assert ring.admit(may, bearer(secret))[:2] == ("ann", role)
        return
    with pytest.raises(ForbiddenError) as caught:
        ring.admit(may, bearer(secret))
    assert secret not in str(caught.value)


def test_clients_need_a_key_from_the_first_one_on(tmp_path, at_once):
    ring = Keyring(tmp_path)
    key(tmp_path, "bob", "viewer")
    assert ring.admit("client", {}) is None
    secret = key(tmp_path)
    for headers in ({}, bearer("shadow_guess"), {b"x-api-key": b"shadow_guess"}):
        with pytest.raises(UnauthenticatedError):
            ring.admit("client", headers)
    assert ring.admit("client", bearer(secret)).name == "ann"
    assert ring.admit("client", {b"x-api-key": secret.encode(), b"authorization": b"Basic proxy"}).name == "ann"
    revoke_key(tmp_path, "ann")
    assert ring.admit("client", {}) is None


def test_the_api_key_header_opens_nothing_but_what_clients_use(tmp_path):
    secret = key(tmp_path, "ann", "operator")
    with pytest.raises(UnauthenticatedError):
        Keyring(tmp_path).admit("operator", {b"x-api-key": secret.encode()})


def test_an_expired_key_is_refused_by_name_and_leaves_the_door_shut(tmp_path):
    secret = key(tmp_path, expires=datetime.now(UTC) - timedelta(seconds=1))
    ring = Keyring(tmp_path)
    with pytest.raises(UnauthenticatedError, match="ann has expired"):
        ring.admit("client", bearer(secret))
    with pytest.raises(UnauthenticatedError, match="send a client's key"):
        ring.admit("client", {})


def test_a_key_expires_while_it_is_remembered(tmp_path, monkeypatch):
    secret = key(tmp_path, expires=datetime.now(UTC) + timedelta(hours=1))
    ring = Keyring(tmp_path)
    ring.admit("client", bearer(secret))
    later = datetime.now(UTC).timestamp() + 3601
    monkeypatch.setattr(keyring.time, "time", lambda: later)
    with pytest.raises(UnauthenticatedError, match="has expired"):
        ring.admit("client", bearer(secret))


def test_a_revoked_key_is_refused_although_it_was_remembered(tmp_path, at_once):
    secret = key(tmp_path, "ann", "viewer")
    ring = Keyring(tmp_path)
    assert ring.admit("viewer", bearer(secret)).name == "ann"
    revoke_key(tmp_path, "ann")
    with pytest.raises(UnauthenticatedError, match="revoked"):
        ring.admit("viewer", bearer(secret))


def test_files_are_looked_at_once_a_second_not_with_every_request(tmp_path, monkeypatch):
    secret = key(tmp_path)
    ring = Keyring(tmp_path)
    looks = []
    monkeypatch.setattr(ring, "_stamp", lambda: looks.append(1))
    for _ in range(1000):
        ring.admit("client", bearer(secret))
    assert len(looks) <= 1


@pytest.mark.parametrize("harm", ["{", '{"keys": [{"name": "x"}]}', None])
def test_a_file_that_is_damaged_or_gone_leaves_the_keys_in_force_and_is_told(tmp_path, at_once, harm):
    secret = key(tmp_path)
    ring = Keyring(tmp_path)
    keys_file(tmp_path).unlink() if harm is None else keys_file(tmp_path).write_text(harm)
    with capture_logs() as lines:
        assert ring.admit("client", bearer(secret)).name == "ann"
        with pytest.raises(UnauthenticatedError):
            ring.admit("client", {})
    assert [line["log_level"] for line in lines].count("error") == 1
    if harm is not None:
        with pytest.raises(SettingsError, match=r"access\.json"):
            Keyring(tmp_path)


def test_what_is_kept_is_no_key_and_its_owners_alone(tmp_path):
    before = os.umask(0)
    try:
        secret = key(tmp_path, expires=datetime(2030, 1, 2, tzinfo=UTC))
    finally:
        os.umask(before)
    assert len(secret) >= 43
    assert stat.S_IMODE(keys_file(tmp_path).stat().st_mode) == 0o600
    assert secret not in keys_file(tmp_path).read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["access.json"]
    (kept,) = read_keys(tmp_path)
    assert (kept.name, kept.role, kept.added_by, kept.ends) == ("ann", "client", "ada@host", secret[-4:])
    assert kept.expires == datetime(2030, 1, 2, tzinfo=UTC)
    assert key(tmp_path, "bob") != secret


@pytest.mark.parametrize("name", ["", "operator", "a b", "-x", "x" * 65, "a/b", "é", "a\n"])
def test_a_name_that_could_be_mistaken_is_refused(tmp_path, name):
    with pytest.raises(SettingsError, match="is no name"):
        key(tmp_path, name)


def test_names_are_unique_and_revoking_none_is_told(tmp_path):
    key(tmp_path)
    with pytest.raises(ConflictError, match="ann already"):
        key(tmp_path)
    with pytest.raises(SettingsError, match="no key bob"):
        revoke_key(tmp_path, "bob")
    assert [each.name for each in read_keys(tmp_path)] == ["ann"]


def test_a_route_without_a_rule_or_without_a_guard_is_a_defect():
    require_rules(named(SimpleNamespace(path="/health", methods={"GET", "HEAD"})), checked=False)
    with pytest.raises(AccessRuleError, match="GET /secrets has no rule"):
        require_rules(["GET /health", "GET /secrets"], checked=True)
    with pytest.raises(AccessRuleError, match="POST /promote"):
        require_rules(["POST /promote"], checked=False)
