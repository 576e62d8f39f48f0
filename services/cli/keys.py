"""`longthink keys`: makes, lists and revokes the API keys in a Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import typer

from planner.errors import LongthinkError
from services.cli.options import Assignments, Profile

Answer = TypeVar("Answer")

app = typer.Typer(
    no_args_is_help=True,
    help="Make, list and revoke API keys, in the Redis that redis.url or REDIS_URL names.",
)


class NoRedis(LongthinkError):
    """Nothing says where the keys are."""


@app.command()
def make(
    tenant: Annotated[str, typer.Argument(help="Whose key it is to be.")],
    operator: Annotated[
        bool,
        typer.Option("--operator", help="It may also read the metrics and all tenants' traces."),
    ] = False,
    window: Annotated[
        int | None,
        typer.Option(min=1, metavar="SECONDS", help="Over which the budget is; an hour without."),
    ] = None,
    completion_tokens: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Tokens generated in a window.")
    ] = None,
    reward_tokens: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Tokens graded in a window.")
    ] = None,
    candidates: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Candidates in a window.")
    ] = None,
    usd: Annotated[
        float | None, typer.Option(min=0, metavar="X", help="US dollars in a window.")
    ] = None,
    requests: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Requests at a time.")
    ] = None,
    candidates_at_once: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Candidates at a time.")
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(min=0.001, metavar="X", help="Requests a second, on average."),
    ] = None,
    burst: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Requests of them at once; 1 without.")
    ] = None,
    weight: Annotated[
        float | None,
        typer.Option(min=0.001, metavar="X", help="Part of what is scarce; 1 without."),
    ] = None,
    priority: Annotated[
        int | None,
        typer.Option(min=-1000, max=1000, metavar="N", help="Lower goes first; 0 without."),
    ] = None,
    profile: Profile = None,
    assignments: Assignments = None,
) -> None:
    """Make a key and print it, this once.

    With any limit, weight or priority the tenant has exactly those from now on, for all its keys.
    """
    from services.keyring import Keyring  # noqa: PLC0415 - quick help
    from services.tenants import Tenant, TenantLimits  # noqa: PLC0415

    limits = {
        "window_seconds": window,
        "completion_tokens": completion_tokens,
        "reward_tokens": reward_tokens,
        "candidates": candidates,
        "micro_usd": None if usd is None else int(usd * 1_000_000),
        "requests": requests,
        "candidates_at_once": candidates_at_once,
        "per_second": rate,
        "burst": burst,
    }
    standing: dict[str, Any] = {"weight": weight, "priority": priority}
    if _said(limits) or _said(standing):
        whose: Tenant | str = Tenant(
            tenant, limits=TenantLimits(**_said(limits)), **_said(standing)
        )
    else:
        whose = tenant

    async def run(keyring: Keyring) -> str:
        return await keyring.make(whose, operator=operator)

    key = _with_keyring(profile, assignments, run)
    typer.echo("This is the only time the key is shown; keep it where nobody else looks.", err=True)
    typer.echo(key)


@app.command("list")
def show(profile: Profile = None, assignments: Assignments = None) -> None:
    """List the keys, by their ids, with what their tenants may have."""
    from rich.console import Console  # noqa: PLC0415 - quick help
    from rich.table import Table  # noqa: PLC0415

    from services.keyring import Keyring  # noqa: PLC0415

    rows = _with_keyring(profile, assignments, Keyring.list)
    table = Table("tenant", "key", "made", "limits", box=None, pad_edge=False)
    for row in rows:
        who = f"{row.tenant.id} (operator)" if row.tenant.operator else row.tenant.id
        table.add_row(who, row.id, _day(row.made), _limits(row.tenant))
    console = Console()
    console.width = max(console.width, 120)
    console.print(table if rows else "There are no keys.")


@app.command()
def revoke(
    which: Annotated[
        str, typer.Argument(metavar="ID|KEY|TENANT", help="A key, or all those of a tenant.")
    ],
    profile: Profile = None,
    assignments: Assignments = None,
) -> None:
    """Revoke a key, or all keys of a tenant. Within a second no service takes them any more."""
    from services.keyring import Keyring  # noqa: PLC0415 - quick help

    async def run(keyring: Keyring) -> int:
        return await keyring.revoke(which)

    count = _with_keyring(profile, assignments, run)
    typer.echo(f"Revoked {count} {'key' if count == 1 else 'keys'}.")


def _with_keyring(
    profile: Any, assignments: list[str] | None, run: Callable[[Any], Awaitable[Answer]]
) -> Answer:
    """What `run` makes of the keyring that the settings name."""
    from services.budget import connect  # noqa: PLC0415 - quick help
    from services.keyring import Keyring  # noqa: PLC0415
    from services.profiles import load  # noqa: PLC0415

    url = load(profile, assignments or ()).redis.url
    if url is None:
        raise NoRedis("Say where the keys are: set REDIS_URL, or redis.url in a profile.")

    async def connected() -> Answer:
        async with connect(url) as redis:
            return await run(Keyring(redis))

    return asyncio.run(connected())


def _said(named: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in named.items() if value is not None}


def _day(seconds: int) -> str:
    from datetime import UTC, datetime  # noqa: PLC0415 - quick help

    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


def _limits(tenant: Any) -> str:
    said = _said(tenant.limits.data())
    window = said.pop("window_seconds")
    if "per_second" not in said:
        said.pop("burst")
    spent = [f"{said.pop(name):,} {name}" for name in _SPENT if name in said]
    words = [f"{', '.join(spent)} in {window:,} s"] if spent else []
    words += [f"{name} {value:g}" for name, value in said.items()]
    words += [f"weight {tenant.weight:g}"] if tenant.weight != 1 else []
    words += [f"priority {tenant.priority}"] if tenant.priority else []
    return "; ".join(words) or "none"


_SPENT = ("completion_tokens", "reward_tokens", "candidates", "micro_usd")
