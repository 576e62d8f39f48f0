"""What of a query's words is taken for a number."""

from __future__ import annotations

import pytest

from services.api.errors import ApiError
from services.api.routes import _limit


@pytest.mark.parametrize("text", ["0000000019999", "1" * 5000, "0", "-1", "", "x"])
def test_a_limit_is_a_small_whole_number(text: str) -> None:
    """However long it is written."""
    with pytest.raises(ApiError):
        _limit(text)
    assert _limit("50") == 50
