"""The settings: what there is to set, what it means and what it is by default.

`Settings()` is the embedded default and reads nothing from outside; services/profiles.py reads the
profile, the environment and the flags. Every setting is described where it stands, and what stands
there is what `longthink serve --help` prints.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from planner.domain import Prices
from planner.effort import PRESETS, Preset
from planner.errors import InvalidOption
from planner.search import STRATEGIES
from planner.selection import selector
from planner.stopping import parse
from services.admission import Rules
from workers.options import CPU_BLOCK_SIZE, GeneratorOptions, RewardOptions
from workers.reference import CALIBRATION, PRM, REASONER, STEP_TAG

REFERENCE = "reference"
"""The name of the model, or reward model, that ships with longthink."""

ENV_PREFIX = "LONGTHINK_"
"""What the name of a setting's environment variable starts with: LONGTHINK_SERVICE__PORT."""

MOST_CANDIDATES = 4096
"""No request may ask for more: a search makes a task for each of a level's candidates at once."""

EffortWord: TypeAlias = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Positive: TypeAlias = Annotated[int, Field(gt=0)]
NotNegative: TypeAlias = Annotated[float, Field(ge=0)]
Price: TypeAlias = Annotated[float, Field(ge=0, le=10_000)]


class Section(BaseModel):
    """One table of the profile."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: object, info: ValidationInfo) -> object:
        """What a variable says is text, so numbers are read leniently: true would count as 1."""
        kind = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and kind is not bool:
            raise ValueError(f"Input should not be {str(value).lower()}")
        return value


class ServiceSettings(Section):
    """The HTTP service."""

    keys: bool = False
    """Whether every request needs an API key (`longthink keys`), by which tenants are told apart,
    limited and kept from one another. It needs redis.url, where the keys are."""

    host: str = "127.0.0.1"
    """Address to listen on. One that other machines can reach needs service.keys."""

    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to listen on; 0 takes a free one."""

    max_body_bytes: Positive = 1_048_576
    """Longest request body that is read; a longer one is refused with 413."""

    default_effort: EffortWord = "medium"
    """The `reasoning_effort` of a request that names none."""

    default_max_tokens: Positive = 1024
    """Length of one candidate, in tokens, where a request names none and the context allows it."""

    grace_seconds: NotNegative = 20.0
    """When the service is stopped, it takes nothing new, and requests in flight have so many
    seconds. What hasn't ended two seconds before that is answered with the best it has."""

    replicas: Positive = 1
    """How many processes take requests and drive their searches. With two or more, requests go on
    where one dies."""

    hedge_share: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Calls to generators that may be sent a second time, to another engine, since they take far
    longer than others like them: so many of all calls, paid out of the request's budget. 0 never
    does."""

    calibration: str | None = REFERENCE
    """File of what `longthink eval --calibrate` found, by which confidence means what it says, for
    what Redis doesn't know; "reference" is the one of the models that ship with longthink."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe log line that is written: into Ray's session folder, by default
    /tmp/ray/session_latest/logs, and with --logs also on standard error."""

    log_format: Literal["text", "json"] = "text"
    """Log lines for people, or one JSON object a line."""

    @property
    def calibration_file(self) -> Path | None:
        """Where that file is."""
        if self.calibration is None:
            return None
        return CALIBRATION if self.calibration == REFERENCE else Path(self.calibration)

    def url(self, port: int) -> str:
        """Where the service is, if it listens on this port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{port}"

    @field_validator("host")
    @classmethod
    def _strangers_need_keys(cls, host: str, info: ValidationInfo) -> str:
        if not _is_loopback(host) and not info.data.get("keys"):
            raise ValueError(
                f"{host!r} can be reached from other machines, and whoever reaches longthink could "
                "use it. Set service.keys = true and make keys with `longthink keys make`, or "
                "listen on 127.0.0.1"
            )
        return host


class RedisSettings(Section):
    """Where budgets and traces are kept."""

    url: str | None = None
    """Redis to use, as redis://, rediss:// or unix://; REDIS_URL says it too. Without one, a
    redis-server is started on a private socket and stopped with the service."""

    answer_seconds: Annotated[float, Field(gt=0)] = 4.0
    """How long Redis may leave a command unanswered before it counts as away: then new requests are
    refused at once, and those in flight end with the best they have, until it answers again. Where
    engines compute on its own cores, it may have to wait for seconds; elsewhere 0.3 will do."""

    lease_seconds: Positive = 30
    """How long a hold on a budget outlives the process that took it."""

    ttl_seconds: Positive = 3600
    """How long a budget and a trace are kept after their last change."""

    @model_validator(mode="after")
    def _outlives_leases(self) -> Self:
        if self.ttl_seconds <= self.lease_seconds:
            raise ValueError("ttl_seconds must be longer than lease_seconds")
        return self


class RaySettings(Section):
    """Where workers run."""

    address: str | None = None
    """Ray cluster to use: "auto" or host:port; RAY_ADDRESS says it too. It needs redis.url as well.
    Without one, Ray is started on this machine and stopped with the service."""


class AdmissionSettings(Section):
    """Which requests begin at once, which wait for their turn, and which are refused."""

    fill: Annotated[float, Field(gt=0, le=64)] = 1.0
    """Candidates that requests may have under way together, as a part of what the generators work
    on at once (replicas x max_num_seqs); above 1, the engines queue what is too much."""

    queue_requests: Positive = 512
    """Requests that may wait for their turn; past that, who has most of them waiting for its weight
    is refused."""

    wait_seconds: NotNegative = 30.0
    """How long a request without a deadline may wait: one that would have to, or has, is refused.
    One with a deadline may wait as long as it can still be answered in time."""

    deadline_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Part of its deadline that a request must have left when it begins; less, where requests like
    it have taken less."""

    surety: Annotated[float, Field(gt=0, le=1)] = 0.75
    """Part of the time that a request may wait which it can be expected to, or it is refused at
    once: the less, the fewer are refused after they have waited."""

    reserve_seconds: NotNegative = 10.0
    """For so long after its last request, a tenant that has less of the engines than its share by
    weight finds room for one more at once, whatever the others ask; 0 keeps none."""

    hold_seconds: Annotated[float, Field(ge=0, le=0.5)] = 0.25
    """For so long at most, and half of the wait it would have had, a request that is like one that
    was refused, and comes with the same API key, is refused before anything looks at it; 0 looks at
    each."""

    memory: Positive = 64
    """Past requests, about, by which is told how long one takes and how many candidates it
    draws."""

    backoff: Annotated[float, Field(gt=0, lt=1)] = 0.9
    """What is left of the candidates that may be under way when a deadline has passed without an
    answer. They become more again as requests are answered."""

    least_fill: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Part of those candidates that always may be under way."""

    def rules(self, candidates: int, edges: int = 1) -> Rules:
        """These, for one of so many edges, before engines that can work on so many candidates."""
        said = self.model_dump(exclude={"fill", "queue_requests", "hold_seconds"})
        queue = -(-self.queue_requests // edges)
        return Rules(capacity=self.fill * candidates / edges, queue_requests=queue, **said)


class EngineSettings(Section):
    """What every vLLM engine is started with."""

    reference: ClassVar[tuple[str, Path]]
    """Name and folder of the model of this kind that ships."""

    model: str = REFERENCE
    """Hugging Face id or folder of the model; "reference" is the one that ships with longthink."""

    served_name: str | None = None
    """Name the model goes by; without one, its Hugging Face id or its folder's name."""

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Number format of the weights; auto takes the checkpoint's."""

    max_model_len: Positive | None = None
    """Longest prompt and answer together, in tokens; without one, what the model was made for."""

    replicas: Positive = 1
    """How many engines run side by side."""

    tensor_parallel: Positive = 1
    """GPUs that one engine is spread over, a whole one for each part."""

    gpus: NotNegative = 0.0
    """GPUs that Ray sets aside for one replica; 0 runs it on the CPU, a fraction shares one."""

    threads: Positive = 1
    """Compute threads of one replica on the CPU."""

    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of each GPU's memory that the engine takes; no meaning on the CPU."""

    kv_space_gib: Annotated[float, Field(gt=0)] = 1.0
    """Memory for the KV cache on the CPU, in GiB; no meaning on a GPU."""

    block_size: Positive | None = None
    """Tokens in a block of the KV cache, of which only full ones are used again; without one, 32 on
    the CPU, where it must be a multiple of 32, and vLLM's own choice on a GPU."""

    max_num_seqs: Positive = 64
    """Sequences that are worked on at once; more wait in the engine's queue."""

    max_num_batched_tokens: Positive | None = None
    """Tokens that one engine step works on at most; without one, vLLM's own choice."""

    max_queued_requests: Positive = 1024
    """Sequences that may be in one engine, running or waiting; past that it refuses."""

    max_queued_tokens: Positive = 1_000_000
    """Tokens of prompts that may wait in one engine; past that it refuses."""

    silence_seconds: Annotated[float, Field(ge=1)] = 30.0
    """An engine that has work and finishes no step of it for so long hangs: its calls are lost,
    others take them over, and it is replaced. More than its longest step ever takes."""

    enforce_eager: bool = True
    """Run without compiling graphs: a quicker start, slower tokens on a GPU."""

    enable_prefix_caching: bool = True
    """Keep the KV cache of prompts, so that the candidates of a question share its prompt."""

    enable_chunked_prefill: bool = False
    """Read a long prompt in pieces between decoding steps. Only on GPUs: on the CPU it ends the
    engine as soon as a request has a seed."""

    trust_remote_code: bool = False
    """Run the Python code that comes with the model; only for a model whose code you have read."""

    extra: dict[str, Any] = {}
    """Any other of vLLM's engine arguments, passed on as they are."""

    @property
    def name(self) -> str:
        """Name the model goes by."""
        if self.served_name is not None:
            return self.served_name
        if self.model == REFERENCE:
            return self.reference[0]
        is_folder = self.model.startswith(("/", "./", "../"))
        return Path(self.model).name if is_folder else self.model

    @property
    def location(self) -> str:
        """The folder or Hugging Face id to load the model from."""
        return str(self.reference[1]) if self.model == REFERENCE else self.model

    @model_validator(mode="after")
    def _chunks_only_on_gpus(self) -> Self:
        if self.enable_chunked_prefill and not self.gpus:
            raise ValueError(
                "enable_chunked_prefill needs GPUs (gpus above 0): on the CPU a seeded request "
                "whose prompt is read in pieces ends the engine"
            )
        return self

    @model_validator(mode="after")
    def _blocks_fit_the_cpu(self) -> Self:
        if self.block_size and not self.gpus and self.block_size % CPU_BLOCK_SIZE:
            raise ValueError(
                f"block_size must be a multiple of {CPU_BLOCK_SIZE} on the CPU: vLLM's attention "
                "there reads no other blocks"
            )
        return self

    @model_validator(mode="after")
    def _gpus_match(self) -> Self:
        if self.gpus and self.tensor_parallel > 1 and self.gpus != self.tensor_parallel:
            raise ValueError(
                f"gpus is what one replica gets, so it must be {self.tensor_parallel} with "
                f"tensor_parallel = {self.tensor_parallel}"
            )
        return self


class GeneratorSettings(EngineSettings):
    """The engines that write candidates."""

    reference = ("longthink-reference", REASONER)

    step_delimiter: Annotated[str, Field(min_length=1)] = "\n"
    """What ends a step of a solution: a newline in the reference model's writing, a blank line in
    most others'."""

    doubts: bool = False
    """Whether a step of a plan is also told how sure the answers are that it builds on. The
    reference model was never shown such figures, and takes them for numbers of the question."""

    def options(self) -> GeneratorOptions:
        """What the workers are told."""
        said = self.model_dump(exclude={"model", "served_name", "step_delimiter", "doubts"})
        return GeneratorOptions(model=self.location, served_name=self.name, **said)


class PlannerSettings(EngineSettings):
    """The engines that write plans, where the generator doesn't.

    What a question is split into, and what `atoms` has it written anew as, is then their writing.
    """

    reference = ("longthink-reference-planner", REASONER)

    enabled: bool = False
    """Whether a model of its own writes the plans. Without one, the generator does."""

    def options(self) -> GeneratorOptions | None:
        """What the workers are told; None where there is no planner."""
        if not self.enabled:
            return None
        said = self.model_dump(exclude={"model", "served_name", "enabled"})
        return GeneratorOptions(model=self.location, served_name=self.name, **said)


class RewardSettings(EngineSettings):
    """The engines that grade candidates."""

    reference = ("longthink-reference-prm", PRM)

    enabled: bool = True
    """Whether there is a reward model at all. Without one, candidates are chosen by vote."""

    kind: Literal["process", "outcome"] = "process"
    """Whether the model scores every step of a candidate, or only the whole."""

    step_tag: Annotated[str, Field(min_length=1)] = STEP_TAG
    """Token that a process reward model wants at the end of each step: "<extra_0>" for Qwen's."""

    aggregate: Literal["last", "min", "product", "mean"] = "last"
    """How a candidate's score comes of its steps' scores."""

    def options(self) -> RewardOptions | None:
        """What the workers are told; None where there is no reward model."""
        if not self.enabled:
            return None
        said = self.model_dump(exclude={"model", "served_name", "enabled"})
        return RewardOptions(model=self.location, served_name=self.name, **said)


class TelemetrySettings(Section):
    """What the service tells of itself, beside its metrics."""

    otlp_endpoint: str | None = None
    """Where OpenTelemetry spans are sent, as OTLP over HTTP: "http://collector:4318";
    OTEL_EXPORTER_OTLP_ENDPOINT says it too. Without one, no spans are made."""

    sample_ratio: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of traces that are kept, of those that begin here; a client that sends a traceparent
    decides for its own. OTEL_TRACES_SAMPLER wins."""

    capture_content: bool = False
    """Put prompts and answers into spans."""

    log_content: bool = False
    """Put questions, answers and what errors say into the log."""


class PriceSettings(Section):
    """What a request is charged, in US dollars per million tokens; what budgets in usd mean."""

    prompt: Price = 0.05
    """Price of a million tokens of prompts, over all branches."""

    completion: Price = 0.20
    """Price of a million tokens generated, over all branches."""

    reward: Price = 0.05
    """Price of a million tokens read by reward models."""


class EffortSettings(Section):
    """What one word of `reasoning_effort` means. What it leaves open stays as it ships."""

    strategy: str | None = None
    """How candidates are searched for."""

    selector: str | None = None
    """How the answer is chosen from them."""

    stop: str | None = None
    """When enough is enough."""

    candidates: Annotated[int, Field(gt=0, le=MOST_CANDIDATES)] | None = None
    """How many candidates at most."""

    @field_validator("strategy")
    @classmethod
    def _strategy_is_known(cls, strategy: str | None) -> str | None:
        if strategy is not None and strategy not in STRATEGIES:
            raise ValueError(f"must be one of {', '.join(STRATEGIES)}, not {strategy!r}")
        return strategy

    @field_validator("selector", "stop")
    @classmethod
    def _name_is_known(cls, said: str | None, info: ValidationInfo) -> str | None:
        if said is not None:
            try:
                _ = selector(said) if info.field_name == "selector" else parse(said)
            except InvalidOption as error:
                raise ValueError(str(error).rstrip(".")) from error
        return said

    def over(self, shipped: Preset) -> Preset:
        """The preset with what is said here put over it."""
        return replace(shipped, **self.model_dump(exclude_none=True))


class Settings(Section):
    """All of it."""

    service: ServiceSettings = ServiceSettings()
    redis: Annotated[RedisSettings, Field(validate_default=True)] = RedisSettings()
    ray: RaySettings = RaySettings()
    admission: AdmissionSettings = AdmissionSettings()
    generator: GeneratorSettings = GeneratorSettings()
    planner: PlannerSettings = PlannerSettings()
    reward: RewardSettings = RewardSettings()
    prices: PriceSettings = PriceSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    efforts: dict[EffortWord, EffortSettings] = {}

    @field_validator("redis")
    @classmethod
    def _keys_are_somewhere(cls, redis: RedisSettings, info: ValidationInfo) -> RedisSettings:
        service = info.data.get("service")
        if service is not None and service.keys and not redis.url:
            raise ValueError(
                "service.keys needs a Redis that keeps the keys: set redis.url (REDIS_URL). The "
                "embedded one forgets everything when the service stops"
            )
        return redis

    @field_validator("ray")
    @classmethod
    def _cluster_reaches_redis(cls, ray: RaySettings, info: ValidationInfo) -> RaySettings:
        redis = info.data.get("redis")
        if ray.address is not None and redis is not None and not redis.url:
            raise ValueError(
                "a cluster (address, RAY_ADDRESS) needs a Redis that all its machines can reach: "
                "set redis.url (REDIS_URL). The embedded one listens on a socket of this machine"
            )
        return ray

    def engines(self) -> dict[str, EngineSettings]:
        """The engines that are to run, by what they are."""
        engines: dict[str, EngineSettings] = {"generator": self.generator}
        if self.planner.enabled:
            engines["planner"] = self.planner
        if self.reward.enabled:
            engines["reward model"] = self.reward
        return engines

    def longest_silence(self) -> float:
        """Seconds for which none of the engines says nothing while it has work."""
        return max(engine.silence_seconds for engine in self.engines().values())

    def rules(self) -> Rules:
        """What admission goes by in each edge, which has its part of what the generators can do.

        Requests come to all edges alike, so each knows enough by what it sees itself.
        """
        candidates = self.generator.replicas * self.generator.max_num_seqs
        return self.admission.rules(candidates, self.service.replicas)

    def price_table(self) -> Prices:
        """The prices as the budget counts them."""
        return Prices(self.prices.prompt, self.prices.completion, self.prices.reward)

    def presets(self) -> dict[str, Preset]:
        """What each word of `reasoning_effort` means here, changed where the profile says so."""
        presets = dict(PRESETS)
        for word, said in self.efforts.items():
            presets[word] = said.over(presets[word])
        return presets


@dataclass(frozen=True, slots=True)
class Described:
    """One setting, for a list of all of them. `default` is as TOML would write it."""

    name: str
    env: str
    default: str
    help: str


def describe() -> Iterator[Described]:
    """Every setting, in the order of the profile, except the table of efforts."""
    for section, table in sections().items():
        for name, info in table.model_fields.items():
            yield Described(
                name=f"{section}.{name}",
                env=f"{ENV_PREFIX}{section}__{name}".upper(),
                default=_as_toml(info.get_default(call_default_factory=True)),
                help=" ".join((info.description or "").split()),
            )


def sections() -> dict[str, type[Section]]:
    """The tables of the profile whose keys are settings."""
    return {
        name: info.annotation
        for name, info in Settings.model_fields.items()
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section)
    }


def _as_toml(value: object) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case str():
            return '"' + value.replace("\n", "\\n") + '"'
        case dict():
            return "{}"
        case _:
            return str(value)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
