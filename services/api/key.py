"""The `Idempotency-Key` of a request, and what makes two bodies the same."""

from __future__ import annotations

import json
from hashlib import sha256

from starlette.requests import Request

from services.api.errors import invalid
from services.idempotency import Key
from services.tenants import tenant_of

HEADER = "Idempotency-Key"
_LONGEST = 255


def read_key(request: Request, body: bytes) -> Key | None:
    """The key of a request whose body is JSON; None where it has none.

    Bodies that differ in the order of their fields or in white space are the same.
    Raises ApiError, 400, for what is no key.
    """
    name = request.headers.get(HEADER)
    if name is None:
        return None
    if not (name.isascii() and name.isprintable() and 0 < len(name) <= _LONGEST):
        raise invalid(f"{HEADER} must be 1 to {_LONGEST} printable ASCII characters.", HEADER)
    same = json.dumps(json.loads(body), sort_keys=True, separators=(",", ":"))
    return Key(name, sha256(same.encode()).hexdigest(), tenant_of(request.scope))
