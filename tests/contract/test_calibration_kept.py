"""What past answers taught, in a real Redis, and how a service comes to know it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
import structlog
from redis import Redis as Admin
from redis.asyncio import Redis

from planner.calibration import ANY, Calibration, Gain
from planner.curves import Isotonic, Platt
from planner.domain import Budget, Cost, Outcome
from planner.effort import Effort
from services.budget import connect
from services.calibration import (
    CalibrationError,
    Calibrations,
    CalibrationStore,
    Past,
    load,
    save,
)
from services.settings import REFERENCE, Settings

EFFORT = Effort("majority", "weighted", "beta:0.95", 16, Budget())
OUTCOME = Outcome(answer="42", confidence=0.5, selector="weighted")
SPENT = Cost(completion_tokens=120, candidates=1)


def level(chance: float) -> Isotonic:
    return Isotonic(((0.5, chance),), 100)


KNOWN = Calibration(
    "some/model",
    {"majority/weighted": Platt(0.5, 0.25, 300), ANY: level(0.6)},
    (
        Gain("auto", None, 900.5, 0.8, 40, (0.5, 1.0)),
        Gain("majority@none", 4, 510.0, 0.65, 300),
        Gain("majority@none", 16, 2049.0, 0.707, 300),
    ),
    "hard, 300 questions",
)


@pytest.fixture
def store(redis_client: Redis) -> CalibrationStore:
    return CalibrationStore(redis_client)


async def test_what_is_put_is_got(store: CalibrationStore) -> None:
    """By the name of its model, and nothing by another's."""
    assert await store.get("some/model") is None
    await store.put(KNOWN)
    assert await store.get("some/model") == KNOWN
    assert await store.get("other") is None


async def test_what_is_found_anew_replaces_only_that(store: CalibrationStore) -> None:
    """Another strategy's curve and gains stay."""
    await store.put(KNOWN)
    fresh = Calibration(
        "some/model", {ANY: level(0.1)}, (Gain("majority@none", 8, 1.0, 0.7, 30),), "easy"
    )
    await store.put(fresh)
    found = await store.get("some/model")
    assert found is not None
    assert found.curves == {**KNOWN.curves, ANY: level(0.1)}
    assert [gain.candidates for gain in found.gains] == [None, 8]
    assert found.source == "easy"


async def test_requests_are_counted(store: CalibrationStore) -> None:
    """By strategy and selector, all services' together."""
    await store.count("m", {"majority/weighted": Past(2, 300), "single/majority": Past(1, 99)})
    await store.count("m", {"majority/weighted": Past(3, 700)})
    assert await store.past("m") == {
        "majority/weighted": Past(5, 1000),
        "single/majority": Past(1, 99),
    }
    assert await store.past("other") == {}


async def test_it_is_kept_for_long(store: CalibrationStore, redis_url: str) -> None:
    """A year at least, anew each time that it is read."""
    await store.put(KNOWN)
    await store.count("some/model", {"majority/weighted": Past(1, 1)})
    with Admin.from_url(redis_url) as admin:
        assert all(admin.ttl(key) > 365 * 86_400 for key in admin.scan_iter())
        _ = admin.expire("longthink:{some/model}:calibration", 100)
        await store.get("some/model")
        assert admin.ttl("longthink:{some/model}:calibration") > 365 * 86_400


async def test_without_anything_fitted_confidence_stays_raw() -> None:
    """Nobody claims a chance."""
    calibrations = Calibrations("some/model")
    calibrations.refresh_soon()
    await calibrations.refresh()
    assert calibrations.known is None
    assert calibrations.calibrated(EFFORT, OUTCOME) is None
    await calibrations.aclose()


async def test_what_ships_counts_until_redis_knows_better(store: CalibrationStore) -> None:
    """Curve by curve."""
    shipped = Calibration("some/model", {"majority/weighted": level(0.9), "x/best": level(0.3)})
    calibrations = Calibrations("some/model", store, shipped)
    assert calibrations.calibrated(EFFORT, OUTCOME) == 0.9
    await store.put(replace(KNOWN, curves={"majority/weighted": level(0.7)}))
    await calibrations.refresh()
    assert calibrations.calibrated(EFFORT, OUTCOME) == 0.7
    assert calibrations.calibrated(replace(EFFORT, strategy="x", selector="best"), OUTCOME) is None
    chosen = replace(OUTCOME, selector="best")
    assert calibrations.calibrated(replace(EFFORT, strategy="x"), chosen) == 0.3
    assert calibrations.known is not None
    assert calibrations.known.gains == KNOWN.gains


async def test_no_answer_has_no_chance(store: CalibrationStore) -> None:
    """Curves are of answers that were found."""
    calibrations = Calibrations("some/model", store, KNOWN)
    assert calibrations.calibrated(EFFORT, replace(OUTCOME, answer=None)) is None


async def test_redis_is_asked_now_and_then(store: CalibrationStore) -> None:
    """In the background, and not again while what it said is fresh."""
    calibrations = Calibrations("some/model", store, fresh_seconds=3600)
    await store.put(KNOWN)
    calibrations.refresh_soon()
    await _known(calibrations)
    await store.put(replace(KNOWN, source="later"))
    calibrations.refresh_soon()
    await calibrations.aclose()
    assert calibrations.known == KNOWN
    eager = Calibrations("some/model", store, fresh_seconds=0)
    eager.refresh_soon()
    await _known(eager)
    assert eager.known is not None
    assert eager.known.source == "later"
    await eager.aclose()


async def test_a_service_counts_its_requests(store: CalibrationStore) -> None:
    """At the next look, and when it ends; the looks tell of those of all services."""
    calibrations = Calibrations("m", store)
    calibrations.note(EFFORT, OUTCOME, SPENT)
    calibrations.note(EFFORT, OUTCOME, SPENT)
    await calibrations.refresh()
    assert calibrations.past == {"majority/weighted": Past(2, 240)}
    calibrations.note(EFFORT, OUTCOME, SPENT)
    await calibrations.aclose()
    await calibrations.aclose()
    assert await store.past("m") == {"majority/weighted": Past(3, 360)}


async def test_without_redis_all_stays_as_it_is(tmp_path: Path, redis_url: str) -> None:
    """What is known is still known, and what was counted is carried over once it is back."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    async with connect(f"unix://{tmp_path}/nobody.sock") as gone:
        calibrations = Calibrations("some/model", CalibrationStore(gone), KNOWN)
        calibrations.note(EFFORT, OUTCOME, SPENT)
        await calibrations.refresh()
        assert calibrations.known == KNOWN
        async with connect(redis_url) as back:
            calibrations._store = CalibrationStore(back)
            await calibrations.aclose()
            assert await CalibrationStore(back).past("some/model") == {
                "majority/weighted": Past(1, 120)
            }
    structlog.reset_defaults()


@pytest.mark.parametrize("said", ["{", "[]", '{"kind": "platt"}'])
async def test_what_is_damaged_is_not_believed(
    redis_client: Redis, store: CalibrationStore, said: str
) -> None:
    """A curve in Redis that is none leaves what was known."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    await store.put(KNOWN)
    await redis_client.hset("longthink:{some/model}:calibration", "curve:*", said)
    calibrations = Calibrations("some/model", store, replace(KNOWN, source="shipped"))
    await calibrations.refresh()
    assert calibrations.known is not None
    assert calibrations.known.source == "shipped"
    structlog.reset_defaults()


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    """And one that can't be read is told by its name."""
    path = tmp_path / "calibration.json"
    save(KNOWN, path)
    assert load(path) == KNOWN
    with pytest.raises(CalibrationError, match=r"nowhere\.json: can't be read"):
        load(tmp_path / "nowhere.json")
    path.write_text("{")
    with pytest.raises(CalibrationError, match=r"calibration\.json: isn't a calibration"):
        load(path)


def test_the_reference_models_come_with_theirs() -> None:
    """It is of the model that is served by default, and knows the strategies of the table."""
    settings = Settings()
    path = settings.service.calibration_file
    assert settings.service.calibration == REFERENCE
    assert path is not None
    shipped = load(path)
    assert shipped.model == settings.generator.name
    assert {ANY, "majority/majority", "particles/weighted"} <= set(shipped.curves)
    assert shipped.gains


async def _known(calibrations: Calibrations) -> None:
    """Return once something is known."""
    async with asyncio.timeout(5):
        while calibrations.known is None:
            await asyncio.sleep(0.01)
