"""Where Ray Serve runs already, the service listens where it says, or doesn't start."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ray.serve.config import HTTPOptions

from services import app


@pytest.fixture(autouse=True)
def serve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve as it would have been started by somebody else."""
    client = SimpleNamespace(http_config=HTTPOptions(host="0.0.0.0", port=8000))  # noqa: S104
    monkeypatch.setattr(app, "_get_global_client", lambda **_: client)


def test_where_serve_listens_it_may_be_told_to() -> None:
    """It is the same address."""
    assert app._found_serve("0.0.0.0", 8000)  # noqa: S104


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 8000), ("0.0.0.0", 8001)])  # noqa: S104
def test_serve_that_listens_elsewhere_is_refused(host: str, port: int) -> None:
    """Who can reach it was decided by somebody else."""
    with pytest.raises(app.ServiceError, match="serve shutdown"):
        app._found_serve(host, port)
