"""Errors as OpenAI's clients know them: `{"error": {"message", "type", "param", "code"}}`.

Every error that leaves the service has this shape, in the body of a response or within a stream,
and none of them tells what only the operator should know: that stands in the log.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

from starlette.responses import JSONResponse, Response

from planner.errors import (
    InvalidOption,
    LedgerUnavailable,
    LongthinkError,
    PromptTooLong,
    WorkersUnavailable,
)
from services.admission import Reason, Refused
from services.allowance import OverLimit
from services.gate import ClientLeft
from services.idempotency import KeyCrowded, KeyOutdated, KeyReused
from services.reasoning import UnknownTrace
from services.resume import OtherQuery

_TRACE_ID = "longthink.trace_id"
_CLIENT_CLOSED_REQUEST = 499

HOLDS = "x-longthink-holds-ms"
"""Header of a refusal that never leaves the service (`services.api.repeats`): for so many
milliseconds others like it needn't be looked at."""

DO_NOT_RETRY: Mapping[str, str] = MappingProxyType({"x-should-retry": "false"})
"""Asks OpenAI's clients not to send the same request again: it has spent compute already."""


class ApiError(LongthinkError):
    """A refusal or a failure, as the client is told of it."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(message)
        self.status = int(status)
        self.message = message
        self.code = code
        self.param = param
        self.headers = headers

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        if self.status == HTTPStatus.TOO_MANY_REQUESTS:
            kind = self.code
        return {
            "error": {
                "message": self.message,
                "type": kind,
                "param": self.param,
                "code": self.code,
            }
        }


def answer(error: ApiError) -> Response:
    """The response that says it."""
    return JSONResponse(error.body(), error.status, dict(error.headers))


def invalid(message: str, param: str | None, *, code: str = "invalid_value") -> ApiError:
    """A request that can't be honoured as it is."""
    return ApiError(HTTPStatus.BAD_REQUEST, message, code=code, param=param)


def told(error: Exception, *, retry_seconds: float, spent: bool = False) -> ApiError:
    """What a client is told of `error`.

    `spent` says that compute was spent before it happened, so that trying again costs as much
    again: OpenAI's clients are asked not to. Otherwise a 503 says when to try again.
    """
    match error:
        case ApiError():
            return error
        case PromptTooLong():
            param = error.param or "messages"
            return invalid(str(error), param, code="context_length_exceeded")
        case InvalidOption():
            return invalid(str(error), error.param)
        case Refused() | ClientLeft():
            return _not_admitted(error, retry_seconds)
        case OverLimit():
            return _over(error)
        case KeyCrowded():
            status = HTTPStatus.TOO_MANY_REQUESTS
            again = _after(retry_seconds)
            return ApiError(status, str(error), code="idempotency_key_crowded", headers=again)
        case KeyReused() | KeyOutdated() | UnknownTrace() | OtherQuery():
            return _of_a_trace(error)
        case LedgerUnavailable():
            message = "Compute can't be metered at present, so nothing new may start."
            code = "ledger_unavailable"
        case WorkersUnavailable():
            message = "No worker can take the request at present."
            code = "workers_unavailable"
        case _:
            return ApiError(
                HTTPStatus.INTERNAL_SERVER_ERROR,
                "The service failed to answer. Its log says why, under this response's "
                "x-request-id.",
                code="internal_error",
                headers=DO_NOT_RETRY if spent else MappingProxyType({}),
            )
    return in_vain(message, code) if spent else unavailable(message, code, retry_seconds)


def _of_a_trace(error: KeyReused | KeyOutdated | UnknownTrace | OtherQuery) -> ApiError:
    """What was asked to go on from something can't."""
    match error:
        case KeyReused():
            status = HTTPStatus.UNPROCESSABLE_ENTITY
            return ApiError(status, str(error), code="idempotency_key_reused")
        case KeyOutdated():
            status = HTTPStatus.CONFLICT
            return ApiError(status, str(error), code="idempotency_key_outdated")
        case UnknownTrace():
            status = HTTPStatus.NOT_FOUND
            return ApiError(status, str(error), code="trace_not_found", param=_TRACE_ID)
        case OtherQuery():
            status = HTTPStatus.CONFLICT
            return ApiError(status, str(error), code="trace_of_another_query", param=_TRACE_ID)


def _over(error: OverLimit) -> ApiError:
    """A tenant's limit is reached: when there is more, if ever."""
    return ApiError(
        HTTPStatus.TOO_MANY_REQUESTS,
        str(error),
        code="insufficient_quota" if error.of_quota else "rate_limit_exceeded",
        param=error.limit,
        headers=DO_NOT_RETRY if error.retry_seconds is None else _after(error.retry_seconds),
    )


def _after(seconds: float) -> dict[str, str]:
    """The headers that say when to try again, in whole seconds and in milliseconds."""
    return {
        "retry-after": str(max(1, math.ceil(seconds))),
        "retry-after-ms": str(math.ceil(seconds * 1000)),
    }


def about(seconds: float) -> dict[str, str]:
    """The same for what nobody knows exactly: whole seconds are rounded up or down by chance, so
    that clients that were sent away in one moment don't all come back in one.
    """
    return {**_after(seconds), "retry-after": str(max(1, math.floor(seconds + random.random())))}


def unavailable(message: str, code: str, retry_seconds: float) -> ApiError:
    """A 503 that cost nothing, and is worth another try after a while."""
    return ApiError(
        HTTPStatus.SERVICE_UNAVAILABLE,
        f"{message} Try again shortly.",
        code=code,
        headers=about(retry_seconds * random.uniform(1.0, 2.0)),
    )


def _not_admitted(refused: Refused | ClientLeft, retry_seconds: float) -> ApiError:
    """For what never began: 429 where that is up to the tenant itself, or else 503."""
    if isinstance(refused, ClientLeft):
        return ApiError(_CLIENT_CLOSED_REQUEST, str(refused), code="client_closed_request")
    status = HTTPStatus.TOO_MANY_REQUESTS if refused.own else HTTPStatus.SERVICE_UNAVAILABLE
    seconds = refused.retry_seconds or retry_seconds
    message = f"{refused} Try again in about {math.ceil(seconds)} s."
    if refused.reason is Reason.DEADLINE:
        message += " Or allow it more time: raise longthink.budget.deadline_seconds."
    headers = about(seconds)
    if holds := int(refused.holds_seconds * 1000):
        headers[HOLDS] = str(holds)
    return ApiError(status, message, code=refused.reason, headers=headers)


def in_vain(message: str, code: str) -> ApiError:
    """A 503 after compute was spent: OpenAI's clients are asked not to spend it once more."""
    return ApiError(HTTPStatus.SERVICE_UNAVAILABLE, message, code=code, headers=DO_NOT_RETRY)
