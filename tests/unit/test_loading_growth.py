"""Whether a service grows, and what is left of a load."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from redis import Redis

from services.client import ServiceError
from services.loading.growth import grown, soak
from services.loading.picture import draw_soak
from services.loading.watch import Sample, Watch, alive, gauges

REST = Sample(0, tasks=20, in_flight=0, running=0, waiting=0, kept=0, keys=5, unexpiring=0)


def over_time(*memory: int) -> list[Sample]:
    """A look a second."""
    return [Sample(seconds, pss=pss) for seconds, pss in enumerate(memory)]


def test_growth_is_from_the_second_tenth_to_the_last() -> None:
    """What happens while it warms up doesn't count, and one look that is off changes nothing."""
    memory = [100] * 10 + [200] * 10 + [999] * 70 + [205, 205, 205, 205, 205, 900, 206, 205, 204, 1]
    told = grown(over_time(*memory), "pss")
    assert told is not None
    assert (told.early, told.late) == (200, 205)
    assert told.share == pytest.approx(0.025)


def test_too_few_looks_tell_nothing() -> None:
    """And neither do those at what couldn't be seen."""
    assert grown(over_time(*[1] * 19), "pss") is None
    assert grown(over_time(*[1] * 20), "tasks") is None


def test_a_service_that_holds_has_nothing_amiss() -> None:
    """Memory may move by less than 5%, and fewer tasks than before are no fault."""
    told = soak(over_time(*[1000] * 10, *[1049] * 10), REST, replace(REST, tasks=18), 3600)
    assert told.amiss() == []
    assert told.orphans == 0


def test_whatever_is_left_or_grows_is_named() -> None:
    """Each with its number."""
    after = replace(REST, tasks=23, kept=2, waiting=1, unexpiring=7, bare=("longthink:x",))
    told = " ".join(soak(over_time(*[1000] * 10, *[1050] * 10), REST, after, 600).amiss())
    for words in ("grew by 5.0%", "3 tasks more", "2 requests are left", "(kept)", "(waiting)"):
        assert words in told
    assert "7 keys in Redis have no time to live: longthink:x" in told


def test_growth_is_no_fault_while_a_service_warms_up() -> None:
    """A short load shows it all the same."""
    told = soak(over_time(*[1000] * 10, *[2000] * 10), REST, REST, 599)
    assert told.amiss() == []
    assert told.memory is not None
    assert told.memory.share == 1


def test_what_could_not_be_seen_is_not_amiss() -> None:
    """A service on another machine shows only what its metrics say."""
    blind = Sample(0)
    told = soak([blind] * 30, blind, blind, 3600)
    assert (told.growths, told.orphans, told.amiss()) == ((), None, [])


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process of ours that has one of its own, with some memory and an open file."""
    code = (
        "import subprocess, sys; "
        "subprocess.run([sys.executable, '-c', "
        "'kept = bytearray(50 << 20); file = open(\"/dev/null\"); print(1, flush=True); input()'])"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.communicate(b"\n")


def test_a_family_of_processes_is_measured(child: subprocess.Popen[bytes]) -> None:
    """All below the root, the root too unless it is ourselves, and none that is a stranger."""
    seen = Watch("http://127.0.0.1:9", every=1, root=child.pid).look()
    ours = Watch("http://127.0.0.1:9", every=1, root=os.getpid())
    assert seen.processes == 2
    assert seen.pss is not None
    assert seen.pss > 50 << 20
    assert sum(seen.parts.values()) == seen.pss
    assert (seen.files or 0) >= 7
    assert ours.look().processes == len(psutil.Process().children(recursive=True))
    ours.others.add(child.pid)
    assert ours.look().processes == len(psutil.Process().children(recursive=True)) - 2


def test_what_cannot_be_looked_at_is_unknown() -> None:
    """No service, no Redis and no process: nothing is taken for zero."""
    watch = Watch("http://127.0.0.1:9", every=1, redis_url="redis://127.0.0.1:9/0")
    seen = watch.look()
    watch.close()
    assert replace(seen, seconds=0) == Sample(0)
    with pytest.raises(ServiceError, match="no such process"):
        alive(2**22 + 1)


def test_keys_without_a_time_to_live_are_found(redis_url: str) -> None:
    """All but those of tenants, which are meant to last."""
    with Redis.from_url(redis_url) as redis:
        redis.set("longthink:{a}:trace", 1, ex=60)
        redis.set("longthink:{tenants}:keys", 1)
        redis.set("longthink:{a}:left", 1)
        watch = Watch("http://127.0.0.1:9", every=1, redis_url=redis_url)
        seen = watch.look()
        watch.close()
        redis.flushall()
    assert (seen.keys, seen.unexpiring, seen.bare) == (3, 1, ("longthink:{a}:left",))


def test_gauges_of_all_parts_are_added() -> None:
    """Two engines and the edge; a gauge that isn't there stays unknown."""
    text = (
        "# HELP vllm:num_requests_running x\n"
        'vllm:num_requests_running{engine="0",worker="a"} 2.0\n'
        'vllm:num_requests_running{engine="0",worker="b"} 1.0\n'
        'longthink_engine_kept{kind="parent"} 0.0\n'
        "longthink_asyncio_tasks 31.0\n"
    )
    assert gauges(text) == {"running": 3, "kept": 0, "tasks": 31}
    assert not Sample(0, **gauges(text)).idle
    assert Sample(0, tasks=31, kept=0).idle


def test_the_picture_of_a_soak_is_drawn(tmp_path: Path) -> None:
    """With what was seen; without anything, none."""
    assert draw_soak([Sample(0)], tmp_path, title="blind") is None
    samples = [Sample(one, pss=(1000 + one) << 20, tasks=20) for one in range(30)]
    assert draw_soak(samples, tmp_path, title="some") == "soak.svg"
    assert b"<!-- 1000 -->" in (tmp_path / "soak.svg").read_bytes()
