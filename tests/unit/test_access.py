"""The operator's token."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from shadow_mlops.access import check, operator_token, token_file
from shadow_mlops.domain.errors import SettingsError, UnauthenticatedError


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


@pytest.mark.parametrize("shown", ["Bearer s3cret", "bearer s3cret", "BEARER  s3cret "])
def test_whoever_shows_it_passes(shown):
    check("s3cret", shown)


@pytest.mark.parametrize(
    "shown", [None, "", "s3cret", "Bearer", "Bearer ", "Bearer s3cre", "Bearer s3cret2", "Basic s3cret", "Bearer \xff"]
)
def test_nobody_else_does(shown):
    with pytest.raises(UnauthenticatedError) as caught:
        check("s3cret", shown)
    assert "s3cret" not in str(caught.value)
    if shown and shown.startswith("Bearer s"):
        assert shown.removeprefix("Bearer ") not in str(caught.value)


def test_an_empty_token_is_no_password():
    with pytest.raises(UnauthenticatedError):
        check("", "Bearer ")
