"""`longthink keys` on a real Redis."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from redis import Redis as SyncRedis

from services.keyring import PREFIX

Run = Callable[..., tuple[int, str, str]]


def test_keys_are_made_listed_and_revoked(
    redis_url: str, longthink: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key is printed once and alone; the list has its tenant and limits, and not the key."""
    monkeypatch.setenv("REDIS_URL", redis_url)
    code, key, told = longthink(
        "keys", "make", "anna", "--usd", "2.5", "--requests", "4", "--rate", "0.5", "--operator"
    )
    assert code == 0
    assert key.startswith("lt-")
    assert "only time" in told
    code, listed, _ = longthink("keys", "list")
    assert code == 0
    assert key.strip() not in listed
    assert "anna (operator)" in listed
    assert "2,500,000 micro_usd in 3,600 s" in listed
    assert "requests 4" in listed
    assert longthink("keys", "revoke", key.strip())[1] == "Revoked 1 key.\n"
    assert "There are no keys" in longthink("keys", "list")[1]
    code, _, told = longthink("keys", "revoke", "anna")
    assert code == 1
    assert "There is no key" in told
    with SyncRedis.from_url(redis_url) as admin:
        admin.delete(*(PREFIX + name for name in ("keys", "tenants")))


def test_keys_need_a_redis_that_keeps_them(longthink: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one it is said what to set."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    code, _, told = longthink("keys", "list")
    assert code == 1
    assert "set REDIS_URL" in told
