"""The settings: their defaults, where they come from, and what is said when they are wrong."""

from __future__ import annotations

import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from planner.effort import PRESETS, Preset
from services.profiles import SettingsError, load
from services.settings import Settings, describe
from workers.options import GeneratorOptions, RewardOptions
from workers.reference import STEP_TAG

PROFILES = Path(__file__).parents[2] / "deploy" / "profiles"


def profile(folder: Path, text: str) -> Path:
    path = folder / "my.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path | None = None, *assignments: str, **env: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load(path, assignments, env)
    return str(caught.value)


def test_nothing_said_is_the_embedded_default() -> None:
    """Without a profile, variables or flags the embedded default is loaded."""
    assert load(env={}) == Settings()


def test_embedded_profile_says_the_defaults() -> None:
    """embedded.toml sets every setting that has a value, to the value it has by default."""
    path = PROFILES / "embedded.toml"
    said = tomllib.loads(path.read_text(encoding="utf-8"))
    names = {f"{section}.{key}" for section, table in said.items() for key in table}
    assert names == {one.name for one in describe() if one.default != "none"}
    assert load(path, env={}) == Settings()


def test_embedded_profile_explains_every_line() -> None:
    """Every setting of embedded.toml has a comment above it, in its own section or the first."""
    lines = (PROFILES / "embedded.toml").read_text(encoding="utf-8").splitlines()
    explained = {
        line.removeprefix("# ").partition(" =")[0]
        for above, line in pairwise(lines)
        if above.startswith("# ") and " = " in line
    }
    assert explained >= {one.name.partition(".")[2] for one in describe()}


def test_gpu_profile_loads() -> None:
    """cluster-gpu.toml is a profile of a real model and a real process reward model on GPUs."""
    settings = load(PROFILES / "cluster-gpu.toml", env={})
    assert settings.generator.name == "Qwen/Qwen2.5-Math-7B-Instruct"
    assert settings.reward.name == "Qwen/Qwen2.5-Math-PRM-7B"
    assert (settings.generator.gpus, settings.reward.gpus) == (1, 1)


def test_flags_win_over_variables_and_variables_over_the_profile(tmp_path: Path) -> None:
    """Of the three places the flag wins, then the variable, then the file."""
    path = profile(tmp_path, "[service]\nport = 1\n[generator]\nreplicas = 2\nmax_num_seqs = 2")
    env = {"LONGTHINK_GENERATOR__REPLICAS": "3", "LONGTHINK_GENERATOR__MAX_NUM_SEQS": "3"}
    settings = load(path, ["generator.max_num_seqs=4", "generator.max_num_seqs=5"], env)
    assert settings.service.port == 1
    assert settings.generator.replicas == 3
    assert settings.generator.max_num_seqs == 5


@pytest.mark.parametrize(
    ("assignment", "section", "key", "value"),
    [
        ("redis.url=redis://host:1/0", "redis", "url", "redis://host:1/0"),
        ("generator.max_model_len=null", "generator", "max_model_len", None),
        ('generator.step_delimiter="\\n\\n"', "generator", "step_delimiter", "\n\n"),
        ("generator.served_name=123", "generator", "served_name", "123"),
        ("generator.gpus=0.5", "generator", "gpus", 0.5),
        ("reward.enabled=false", "reward", "enabled", False),
        ("planner.enabled=true", "planner", "enabled", True),
        ("generator.extra={seed = 1}", "generator", "extra", {"seed": 1}),
        ("generator.extra.seed=1", "generator", "extra", {"seed": 1}),
        ('generator.extra.block="a"', "generator", "extra", {"block": "a"}),
    ],
)
def test_a_value_is_read_by_its_settings_type(
    assignment: str, section: str, key: str, value: Any
) -> None:
    """Numbers, words, nothing and tables can be set by flag and by variable alike."""
    name, _, text = assignment.partition("=")
    variable = "LONGTHINK_" + name.replace(".", "__").upper()
    for settings in (load(None, [assignment], {}), load(None, [], {variable: text})):
        assert getattr(getattr(settings, section), key) == value


def test_variables_of_kubernetes_are_left_alone() -> None:
    """What Kubernetes sets for a service named longthink is no setting of ours."""
    env = {"LONGTHINK_PORT": "tcp://10.0.0.1:80", "LONGTHINK_SERVICE_HOST": "10.0.0.1"}
    assert load(None, [], env) == Settings()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[generator]\nmax_num_seq = 1", "generator.max_num_seq: no such setting; did you mean"),
        ("[generator]\nmax_num_seq = 1", "generator.max_num_seqs?"),
        ("[servic]\nport = 1", "servic: no such setting; did you mean service?"),
        ("port = 1", "port: no such setting; did you mean service.port?"),
        ("[reward]\nport = 1", "reward.port: no such setting; did you mean service.port?"),
        ("[reward]\nzzz = 1", "reward.zzz: no such setting."),
        ("[efforts.hihg]\ncandidates = 1", "efforts.hihg: no such setting; did you mean"),
        ("[efforts.high]\nwidth = 1", "efforts.high.width: no such setting."),
        ("[service]\nport = 99999", "service.port: Input should be less than or equal to 65535."),
        ("[efforts.max]\ncandidates = 4097", "should be less than or equal to 4096."),
        ("[efforts.high]\nstrategy = 'magic'", "efforts.high.strategy: must be one of single,"),
        ("[efforts.high]\nselector = 'x'", "selector must be one of majority,"),
        ("[efforts.high]\nstop = 'beta:2'", "stop 'beta:2': its threshold must be between"),
        ("[service]\nport = true", "service.port: Input should not be true."),
        ("[generator]\nreplicas = true", "generator.replicas: Input should not be true."),
        ("[service]\ngrace_seconds = inf", "grace_seconds: Input should be a finite number."),
        ("[prices]\nprompt = nan", "prices.prompt: Input should be a finite number."),
        ("[prices]\nprompt = 1e5", "prices.prompt: Input should be less than or equal to 10000."),
        ("service = 1", "service: Input should be a valid dictionary"),
        ("[service\n", "not a TOML file"),
    ],
)
def test_a_wrong_profile_is_refused_by_name(tmp_path: Path, text: str, told: str) -> None:
    """What is wrong in a profile is told with the file's name, and what was meant where it can."""
    path = profile(tmp_path, text)
    message = refusal(path)
    assert message.startswith(f"{path}: ")
    assert told in message


def test_every_unknown_key_is_told_at_once(tmp_path: Path) -> None:
    """All that is unknown is listed in one go, each with the place it was said."""
    path = profile(tmp_path, "[generator]\nfoo = 1")
    lines = refusal(path, "generator.bar=1", LONGTHINK_GENERATOR__BAZ="1").splitlines()
    assert lines == [
        "--set generator.bar=1: generator.bar: no such setting.",
        "LONGTHINK_GENERATOR__BAZ: generator.baz: no such setting.",
        f"{path}: generator.foo: no such setting.",
    ]


def test_a_wrong_value_is_told_with_the_place_that_won(tmp_path: Path) -> None:
    """Where several places set a value, the one that won is blamed."""
    path = profile(tmp_path, "[service]\nport = 1")
    message = refusal(path, LONGTHINK_SERVICE__PORT="http")
    assert message.startswith("LONGTHINK_SERVICE__PORT: service.port: ")


def test_a_missing_profile_is_told(tmp_path: Path) -> None:
    """A file that isn't there is named."""
    path = tmp_path / "nowhere.toml"
    assert refusal(path) == f"{path}: can't be read: No such file or directory."


@pytest.mark.parametrize("assignment", ["port=1", "service.port", "service.=1", "=1", ""])
def test_a_flag_that_is_no_assignment_is_refused(assignment: str) -> None:
    """What isn't section.name=value is told how to be written."""
    told = f"--set {assignment}: write it as section.name=value."
    assert refusal(None, assignment) == told


def test_a_value_that_is_no_toml_is_refused() -> None:
    """A table that can't be read says so."""
    assert "not a TOML value" in refusal(None, "generator.extra={a")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "example.org", ""])  # noqa: S104 - refused
def test_other_machines_are_kept_out(host: str) -> None:
    """Listening where others can connect is refused, and the message says what to do instead."""
    assert "Set service.keys = true" in refusal(None, f"service.host={host}")


def test_other_machines_may_come_with_keys() -> None:
    """With keys any address may be listened on, and the keys need a Redis that keeps them."""
    said = ["service.host=0.0.0.0", "service.keys=true"]
    assert load(None, [*said, "redis.url=redis://a"], {}).service.keys
    assert "set redis.url" in refusal(None, *said)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_addresses_are_fine(host: str) -> None:
    """Any loopback address may be listened on."""
    assert load(None, [f"service.host={host}"], {}).service.host == host


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:81"),
        ("localhost", "http://localhost:81"),
        ("::1", "http://[::1]:81"),
    ],
)
def test_the_service_is_where_its_url_says(host: str, url: str) -> None:
    """An IPv6 address stands in brackets, so that its colons are not the port's."""
    assert load(None, [f"service.host={host}"], {}).service.url(81) == url


def test_gpus_must_match_the_spread_of_an_engine() -> None:
    """An engine spread over four GPUs needs four set aside."""
    assert "must be 4" in refusal(None, "generator.tensor_parallel=4", "generator.gpus=1")
    load(None, ["generator.tensor_parallel=4", "generator.gpus=4"], {})


def test_what_is_kept_outlives_what_is_held() -> None:
    """A budget that would be forgotten before its holds come back is refused."""
    assert "longer than lease_seconds" in refusal(None, "redis.ttl_seconds=30")


@pytest.mark.parametrize(
    ("model", "served", "name"),
    [
        ("reference", "null", "longthink-reference"),
        ("Qwen/Qwen2.5-Math-7B-Instruct", "null", "Qwen/Qwen2.5-Math-7B-Instruct"),
        ("/models/mine/", "null", "mine"),
        ("./mine", "null", "mine"),
        ("/models/mine", "best", "best"),
    ],
)
def test_the_name_a_model_goes_by(model: str, served: str, name: str) -> None:
    """A model goes by the name it is given, else its Hugging Face id or its folder's name."""
    assignments = [f"generator.model={model}", f"generator.served_name={served}"]
    assert load(None, assignments, {}).generator.name == name


def test_the_workers_get_what_is_set() -> None:
    """Engine settings become the workers' options, name by name; defaults are the workers' own."""
    settings = Settings()
    model = settings.generator.options().model
    expected = GeneratorOptions(model=model, served_name="longthink-reference")
    assert settings.generator.options() == expected
    options = settings.reward.options()
    assert options is not None
    name = "longthink-reference-prm"
    assert options == RewardOptions(model=options.model, served_name=name, step_tag=STEP_TAG)
    assert model != options.model
    assert Path(model).parent == Path(options.model).parent


def test_no_reward_model_is_no_options() -> None:
    """With the reward model switched off the workers are told of none."""
    assert load(None, ["reward.enabled=false"], {}).reward.options() is None


def test_a_planner_is_an_engine_of_its_own() -> None:
    """Switched off unless it is asked for; its model then has a name of its own."""
    assert Settings().planner.options() is None
    assert list(Settings().engines()) == ["generator", "reward model"]
    settings = load(None, ["planner.enabled=true", "planner.replicas=2"], {})
    assert list(settings.engines()) == ["generator", "planner", "reward model"]
    model = settings.generator.options().model
    name = "longthink-reference-planner"
    expected = GeneratorOptions(model=model, served_name=name, replicas=2)
    assert settings.planner.options() == expected
    another = load(None, ["planner.enabled=true", "planner.model=Qwen/Qwen3-8B"], {})
    assert another.planner.name == "Qwen/Qwen3-8B"


def test_prompts_are_read_in_pieces_only_on_gpus() -> None:
    """Chunked prefill on the CPU, which ends the engine, is refused."""
    assert "needs GPUs" in refusal(None, "generator.enable_chunked_prefill=true")
    load(None, ["generator.enable_chunked_prefill=true", "generator.gpus=1"], {})


def test_blocks_that_the_cpu_cannot_read_are_refused() -> None:
    """On the CPU a block of the KV cache is a multiple of 32 tokens; a GPU may have others."""
    assert "multiple of 32" in refusal(None, "reward.block_size=16")
    load(None, ["generator.block_size=64"], {})
    load(None, ["generator.block_size=16", "generator.gpus=1"], {})


def test_well_known_variables_are_heeded() -> None:
    """REDIS_URL, RAY_ADDRESS and OpenTelemetry's are taken, unless our own says otherwise."""
    collector = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}
    assert load(None, [], collector).telemetry.otlp_endpoint == "http://c:4318"
    env = {"REDIS_URL": "redis://a", "RAY_ADDRESS": "auto"}
    settings = load(None, [], env)
    assert (settings.redis.url, settings.ray.address) == ("redis://a", "auto")
    settings = load(None, [], {**env, "LONGTHINK_REDIS__URL": "redis://b", "RAY_ADDRESS": ""})
    assert (settings.redis.url, settings.ray.address) == ("redis://b", None)


@pytest.mark.parametrize("url", [None, ""])
def test_a_cluster_needs_a_redis_of_its_own(url: str | None) -> None:
    """The embedded Redis, on a socket of this machine, is no place for replicas on others."""
    told = refusal(
        None, RAY_ADDRESS="auto", **({} if url is None else {"LONGTHINK_REDIS__URL": url})
    )
    assert told.startswith("RAY_ADDRESS: ray: a cluster (address, RAY_ADDRESS) needs a Redis")
    assert "set redis.url (REDIS_URL)" in told
    assert load(None, [], {"RAY_ADDRESS": "auto", "REDIS_URL": "redis://a"}).ray.address == "auto"


def test_an_effort_changes_what_it_names() -> None:
    """A preset keeps what the profile doesn't say, and the other presets are as they ship."""
    presets = load(None, ["efforts.high.candidates=48", "efforts.high.stop=certain"], {}).presets()
    shipped = PRESETS["high"]
    assert presets["high"] == Preset(shipped.strategy, shipped.selector, "certain", 48)
    assert {word: presets[word] for word in presets if word != "high"} == {
        word: PRESETS[word] for word in PRESETS if word != "high"
    }


def test_a_budget_in_money_means_something_by_default() -> None:
    """Every kind of token has a price in the embedded default."""
    prices = Settings().price_table()
    assert min(prices.prompt, prices.completion, prices.reward) > 0


def test_every_setting_is_described() -> None:
    """Each setting has a description, a variable, and a default as TOML writes it."""
    for one in describe():
        assert one.help.endswith("."), one.name
        assert one.env == "LONGTHINK_" + one.name.replace(".", "__").upper()
    defaults = {one.name: one.default for one in describe()}
    assert defaults["generator.step_delimiter"] == '"\\n"'
    assert defaults["reward.enabled"] == "true"
    assert defaults["redis.url"] == "none"
    assert defaults["generator.extra"] == "{}"
    assert defaults["service.port"] == "8000"


def test_each_edge_admits_its_part() -> None:
    """Of what all generators work on at once, and of the queue; no place is lost by rounding."""
    assignments = ["generator.replicas=3", "service.replicas=2", "admission.queue_requests=5"]
    rules = load(None, [*assignments, "admission.fill=2"], {}).rules()
    assert rules.capacity == 2 * 3 * 64 / 2
    assert rules.queue_requests == 3
    assert Settings().rules().capacity == 64
