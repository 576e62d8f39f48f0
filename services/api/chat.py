"""`POST /v1/chat/completions`: read, start a run, answer at once or bit by bit.

Nothing is started for a request that can't be honoured, and nothing goes on for a client that is
gone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from time import monotonic
from typing import Any

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive
from structlog.contextvars import bound_contextvars

from planner.effort import Effort, Options
from services.admission import Reason, Refused
from services.api import reply as replies
from services.api.body import read_json
from services.api.errors import ApiError, invalid, told
from services.api.key import HEADER, read_key
from services.api.limits import Limits
from services.api.repeats import REPEATED, repeated
from services.api.schema import Ask, parse
from services.api.standing import ratelimit
from services.api.stream import ChunkWriter, EventStream, written_live
from services.api.turn import Turn, disconnected
from services.gate import Door, Gate
from services.idempotency import Key, Lease
from services.once import Once
from services.reasoning import Reasoner
from services.run import Admitted, Run
from services.telemetry import Ended, Telemetry
from services.tenants import Tenant, tenant_of
from services.trace import Kind

_CLIENT_CLOSED_REQUEST = 499
"""What proxies log for a client that didn't wait."""


class ChatCompletions:
    """The endpoint. `settle` says what a request's options come to, as the reasoner has it."""

    def __init__(
        self,
        reasoner: Reasoner,
        *,
        model: str,
        limits: Limits,
        telemetry: Telemetry,
        settle: Callable[[Options], Effort],
        gate: Gate,
        once: Once | None = None,
        meterable: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`meterable` raises LedgerUnavailable while nothing can be metered."""
        self._meterable = meterable
        self._reasoner = reasoner
        self._once = once
        self._model = model
        self._limits = limits
        self._telemetry = telemetry
        self._settle = settle
        self._gate = gate
        self._turns: set[Turn] = set()

    async def __call__(self, request: Request, request_id: str) -> Response:
        """Answer `request`, under the id that is also its trace's.

        Raises ApiError for what is refused; anything else is a failure of the service.
        """
        tenant = tenant_of(request.scope)
        with bound_contextvars(tenant=tenant.id):
            return await self._answer(request, request_id, tenant)

    async def _answer(self, request: Request, request_id: str, tenant: Tenant) -> Response:
        began = monotonic()
        self._count(repeated(request.headers.get(REPEATED)), tenant)
        try:
            if self._meterable is not None:
                await self._meterable()
            if self._gate.closed or HEADER not in request.headers:
                # What has a key may only want to hear what is there already.
                self._gate.check(tenant)
            body = await read_json(request, self._limits)
            ask = parse(body, model=self._model, limits=self._limits)
            key = read_key(request, body)
            door = self._gate.door(tenant, partial(disconnected, request.receive))
            turn = await self._start(ask, key, request_id, began, door)
        except Exception as error:
            refusal = self._told(error)
            self._telemetry.refused(status=refusal.status, code=refusal.code, tenant=tenant.id)
            raise
        if ask.stream:
            return EventStream(turn, self._writer(turn).chunks())
        return await self._plain(turn, request.receive)

    def _count(self, refused: Mapping[str, int], tenant: Tenant) -> None:
        """Book what was refused in front of the edge."""
        for reason in Reason:
            if times := refused.get(reason, 0):
                status = self._told(Refused(reason)).status
                self._telemetry.repeated(reason, status=status, times=times, tenant=tenant.id)

    async def _start(
        self, ask: Ask, key: Key | None, request_id: str, began: float, door: Door
    ) -> Turn:
        effort = self._settle(ask.options)
        live = ask.stream and written_live(effort, ask.options.answers)
        tenant = door.tenant

        async def start(trace_id: str, lease: Lease | None = None) -> Run:
            query, more = ask.query, dict[str, Any]()
            if ask.earlier is not None:
                earlier = await self._reasoner.earlier(ask.earlier, tenant)
                query, more["earlier"] = earlier.query(query, seeded=ask.seeded), earlier
            if lease is not None:
                more["lease"] = lease

            async def begin(admitted: Admitted) -> Run:
                return await self._reasoner.start(
                    query,
                    ask.options,
                    trace_id=trace_id,
                    stream_tokens=live,
                    tenant=tenant,
                    admitted=admitted,
                    **more,
                )

            return await door(effort, begin)

        if key is None:
            run = await start(request_id)
        elif self._once is not None:
            run = await self._once.run(
                key, start, trace_id=request_id, stream_tokens=live, door=door
            )
        else:
            raise invalid("This service keeps no keys: send none.", HEADER)
        turn = Turn(ask, run, began=began, book=partial(self._book, tenant))
        self._turns.add(turn)
        self._telemetry.began()
        return turn

    async def _plain(self, turn: Turn, receive: Receive) -> Response:
        async with turn.attended(receive):
            # Waiting for the task leaves it alone when this wait is cancelled.
            await asyncio.wait((turn.reply,))
        answers = turn.ask.options.answers
        try:
            reply = turn.result()
            shown = replies.choices(reply.outcome, answers)
        except Exception as error:
            raise self._told(error, spent=True) from error
        ours = replies.extension(reply, answers=answers, seconds=turn.seconds)
        body = replies.completion(
            reply, shown, model=self._model, created=int(time.time()), ours=ours
        )
        return Response(
            to_json(body, inf_nan_mode="null"),
            headers={"x-request-id": reply.trace_id, **ratelimit(turn.run.allowance)},
            media_type="application/json",
        )

    def _writer(self, turn: Turn) -> ChunkWriter:
        strategy = turn.run.effort.strategy
        return ChunkWriter(
            turn,
            model=self._model,
            created=int(time.time()),
            limits=self._limits,
            failure=lambda error: self._told(error, spent=True),
            progressed=lambda seconds: self._telemetry.progressed(strategy, seconds),
        )

    def _told(self, error: Exception, *, spent: bool = False) -> ApiError:
        return told(error, retry_seconds=self._limits.retry_seconds, spent=spent)

    def _book(self, tenant: Tenant, turn: Turn) -> None:
        """Write the request into the log and the metrics, once its run is over."""
        self._turns.discard(turn)
        error = _error(turn)
        failure = None if error is None else self._told(error, spent=True)
        if error is not None and failure is not error:
            self._telemetry.log.error("run failed", exc_info=error)
        status = 200 if failure is None else failure.status
        self._telemetry.ended(
            Ended(
                request_id=turn.run.trace.id,
                status=_CLIENT_CLOSED_REQUEST if turn.hung_up else status,
                code=failure.code if failure else None,
                stream=turn.ask.stream,
                seconds=turn.seconds,
                strategy=turn.run.effort.strategy,
                reply=None if error else turn.result(),
                cancelled_calls=_cancelled(turn),
                tenant=tenant.id,
                question=turn.ask.query.messages[-1].content,
            )
        )


def _error(turn: Turn) -> Exception | None:
    """What keeps a finished turn from being answered."""
    try:
        replies.choices(turn.result().outcome, turn.ask.options.answers)
    except Exception as error:  # noqa: BLE001  it is handed on
        return error
    return None


def _cancelled(turn: Turn) -> int:
    events = turn.run.trace.events
    return sum(len(event.data["calls"]) for event in events if event.kind is Kind.CANCELLED)
