"""The agent's configuration: what its YAML file may say, with units in the names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar

import msgspec
from msgspec import Meta

from edge_agent.actions import ActionConfig
from edge_agent.actions import mqtt as mqtt_action
from edge_agent.address import parse_url, web_url_fault
from edge_agent.contract.errors import ConfigError
from edge_agent.contract.names import name_fault, prefix_fault
from edge_agent.settings import Fault, Settings, load_settings
from edge_agent.sources import SourceConfig, jsonl, names_sensors, parts_fault, plain_sources
from edge_agent.sources import mqtt as mqtt_source

S = TypeVar("S", bound=Settings)
Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]
_PATHS: Final = (
    "password_file",
    "ca_file",
    "cert_file",
    "key_file",
    "root_file",
    "path",
    "token_file",
)


class BrokerConfig(Settings, frozen=True, kw_only=True):
    """How to reach the broker.

    Attributes:
        url: ``mqtt://HOST[:PORT]`` or ``mqtts://HOST[:PORT]``; 1883 and 8883 by default.
        prefix: what every topic begins with, 1 to 3 levels.
        protocol: ``auto`` tries MQTT 5 and falls back to 3.1.1; ``5`` and ``3.1.1`` force one.
        username: for brokers that ask for one.
        password_file: file whose first line is the password.
        password_env: environment variable that holds the password.
        ca_file: PEM file to check the broker by; the system's store when absent.
        cert_file: PEM client certificate, with ``key_file``.
        key_file: PEM key of ``cert_file``.
        keepalive_s: seconds after which a silent connection counts as dead.
    """

    url: str
    prefix: str = "edge"
    protocol: Literal["auto", "5", "3.1.1"] = "auto"
    username: str | None = None
    password_file: str | None = None
    password_env: str | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    keepalive_s: Annotated[int, Meta(ge=5, le=3600)] = 30


class DecideConfig(Settings, frozen=True, kw_only=True):
    """Overrides of the bundle's decision defaults; a field left out keeps the bundle's value.

    The fields are those of :class:`edge_agent.contract.manifest.DecideSpec`.
    """

    threshold: float | None = None
    hysteresis: Annotated[float, Meta(ge=0)] | None = None
    debounce: Count | None = None
    cooldown_s: Annotated[float, Meta(ge=0)] | None = None
    direction: Literal["above", "below"] | None = None
    fire_on: tuple[str, ...] | None = None


class SensorsConfig(Settings, frozen=True, kw_only=True):
    """Many sensors of one kind on one model: each has its own window, checks and state.

    Windows that are due in what the source gives at once are decided in one run of the model.
    Where readings come one by one, short pauses within ``batch_wait_ms`` let them gather.

    Attributes:
        sensors_n_max: most sensors; readings of any more are left out and counted as ``crowded``.
        batch_n_max: most windows in one run.
        batch_wait_ms: longest time that batches may add to a window's wait, as long as the model
            keeps up; 0 makes no pauses.
    """

    sensors_n_max: Annotated[int, Meta(ge=1, le=100_000)] = 1_000
    batch_n_max: Annotated[int, Meta(ge=1, le=1_024)] = 128
    batch_wait_ms: Annotated[float, Meta(ge=0)] = 5.0


class PipelineConfig(Settings, frozen=True, kw_only=True):
    """One sensor, one model, some actions.

    Attributes:
        name: of the pipeline, in records and status.
        model: name of the model that it runs; bundles of this name are taken from the broker.
        channels: what the source delivers, in order; a bundle must want exactly these.
        source: where readings come from, by ``type``.
        bundle: bundle file to start with when none has been installed yet; without it the
            pipeline waits for one from the broker.
        decide: overrides of the bundle's decision defaults.
        actions: what to do when a decision fires, by ``type``.
        record: which decisions become records: every ``window``, or only those that ``fired``.
        sensors: for a source that gives readings of many sensors, e.g. ``mqtt`` with a
            ``sensor_key``; None is one sensor.
        record_raw: which windows' readings become records too, to train on: ``none``, those that
            ``fired``, or every ``window``. They are the first to go at the cap.
        silent_s: seconds without a reading after which status and log say so; None for never.
    """

    name: str
    model: str
    channels: Annotated[tuple[str, ...], Meta(min_length=1)]
    source: SourceConfig
    bundle: str | None = None
    decide: DecideConfig = DecideConfig()
    actions: tuple[ActionConfig, ...] = ()
    record: Literal["window", "fired"] = "window"
    sensors: SensorsConfig | None = None
    record_raw: Literal["none", "fired", "window"] = "none"
    silent_s: Positive | None = 60.0


class OutboxConfig(Settings, frozen=True, kw_only=True):
    """How records are kept until they are delivered.

    Attributes:
        bytes_max: cap on the outbox's files; beyond it the least important, oldest records are
            dropped and said in a ledger record.
        flush_s: longest time that an offered record may wait for its durable commit.
        queue_n_max: offered records that may wait for that commit.
    """

    bytes_max: Annotated[int, Meta(ge=1024 * 1024)] = 64 * 1024 * 1024
    flush_s: Positive = 0.2
    queue_n_max: Count = 20_000


class UplinkConfig(Settings, frozen=True, kw_only=True):
    """How records leave the device.

    Attributes:
        confirm: when a record may be forgotten. ``collector``: after a collector's
            acknowledgement. ``broker``: ``settle_s`` after the broker's. ``auto``: as ``broker``
            until a collector has acknowledged for the first time, from then on as ``collector``.
        settle_s: how long records are kept after the broker's acknowledgement.
        resend_s: wait for a collector's acknowledgement before sending again; doubles up to 30 s.
        batch_bytes: largest message.
        backlog_n_per_s: most backlog records sent a second, so that draining disturbs nothing.
        in_flight_n_max: publishes that may wait for the broker's acknowledgement.
        unconfirmed_n_max: backlog records that may wait for a collector's acknowledgement.
    """

    confirm: Literal["auto", "collector", "broker"] = "auto"
    settle_s: Positive = 60.0
    resend_s: Positive = 5.0
    batch_bytes: Annotated[int, Meta(ge=1024, le=48 * 1024)] = 32 * 1024
    backlog_n_per_s: Count = 5_000
    in_flight_n_max: Annotated[int, Meta(ge=1, le=100)] = 10
    unconfirmed_n_max: Count = 20_000


class RetainedConfig(Settings, frozen=True, kw_only=True, tag="retained"):
    """Updates from retained messages on the broker: the usual way."""


class RequestConfig(Settings, frozen=True, kw_only=True, tag="request"):
    """Updates on request over the broker, answered by ``edge-fleet serve``."""


class HttpsConfig(Settings, frozen=True, kw_only=True, tag="https"):
    """Updates from a web server that has the files of ``edge-fleet export``.

    Attributes:
        url: ``https://HOST[:PORT]/PATH``; plain ``http`` only to this machine.
        ca_file: PEM file to check the server by; the system's store when absent.
    """

    url: str
    ca_file: str | None = None


class FolderConfig(Settings, frozen=True, kw_only=True, tag="folder"):
    """Updates from a folder that ``edge-fleet export`` wrote, such as a USB stick.

    Attributes:
        path: of the folder; it need not be there all the time.
    """

    path: str


WayConfig = RetainedConfig | RequestConfig | HttpsConfig | FolderConfig


class TrialConfig(Settings, frozen=True, kw_only=True):
    """When a new model that has passed every check goes back by itself.

    Attributes:
        seconds: how long it is watched.
        windows_min: windows that it must have seen before the trial ends.
        longest_s: when the trial ends although there were fewer, as with a sensor that is silent.
        errors_max: windows on which it may fail.
        not_finite_max: windows on which it may answer NaN or infinity.
        latency_us_max: 99th percentile of an inference.
        starts_max: starts of the agent during one trial; more are a crash loop.
        disagreement_max: share of windows on which the model before, running beside it, may give
            another label; None does not run it.
    """

    seconds: Annotated[float, Meta(ge=0)] = 60.0
    windows_min: Annotated[int, Meta(ge=0)] = 10
    longest_s: Annotated[float, Meta(ge=0)] = 86_400.0
    errors_max: Annotated[int, Meta(ge=0)] = 3
    not_finite_max: Annotated[int, Meta(ge=0)] = 0
    latency_us_max: Positive = 100_000.0
    starts_max: Count = 3
    disagreement_max: Annotated[float, Meta(ge=0, le=1)] | None = None


class UpdateConfig(Settings, frozen=True, kw_only=True):
    """How new models are taken over.

    Attributes:
        enabled: False never listens for models.
        root_file: root of trust, made by ``edge-fleet init``; only what it leads to is run.
        unsigned: for development only: runs whatever the broker says.
        ways: where updates come from, by ``type``; one after the other is tried.
        window_n: chunks asked for at once.
        answer_s: seconds without an answer after which something is asked for again.
        silence_s_max: seconds without any chunk, while the way is open, after which an update is
            refused; a broker that lost its chunks is seeded again within a week.
        bytes_per_s_max: most that an update may load; None for no bound.
        check_s: seconds between two looks for new orders when nothing hints at any.
        bundle_bytes_max: largest bundle that is fetched.
        probe_s: longest time that the golden-vector check may take.
        probe_bytes_max: most memory that the golden-vector check may use.
        latency_us_max: median of an inference in the probe; None for no bound.
        reserve_bytes: memory that must stay free beside a new model.
        trial: when a new model goes back by itself.
    """

    enabled: bool = True
    root_file: str | None = None
    unsigned: bool = False
    ways: Annotated[tuple[WayConfig, ...], Meta(min_length=1)] = (RetainedConfig(),)
    window_n: Annotated[int, Meta(ge=1, le=8)] = 8
    answer_s: Positive = 3.0
    silence_s_max: Positive = 604_800.0
    bytes_per_s_max: Annotated[int, Meta(ge=1024)] | None = None
    check_s: Positive = 3600.0
    bundle_bytes_max: Count = 256 * 1024 * 1024
    probe_s: Positive = 60.0
    probe_bytes_max: Count = 1024 * 1024 * 1024
    latency_us_max: Positive | None = None
    reserve_bytes: Annotated[int, Meta(ge=0)] = 32 * 1024 * 1024
    trial: TrialConfig = TrialConfig()


class AgentConfig(Settings, frozen=True, kw_only=True):
    """The whole file.

    Attributes:
        device: this device's id: letters, digits, ``-`` and ``_``.
        data_dir: folder for the outbox and the models; relative to the configuration file.
        groups: groups that this device belongs to, for ``edge-fleet publish --to group:NAME``.
        broker: None runs without a network; records are kept up to the cap.
        pipelines: at least one.
        outbox: how records are kept.
        uplink: how they leave.
        update: how new models are taken over.
        status_s: seconds between two status messages.
        metrics_s: seconds between two metrics records of a pipeline.
        log_level: of the log on stderr.
    """

    device: str
    data_dir: str
    groups: tuple[str, ...] = ()
    broker: BrokerConfig | None = None
    pipelines: Annotated[tuple[PipelineConfig, ...], Meta(min_length=1)]
    outbox: OutboxConfig = OutboxConfig()
    uplink: UplinkConfig = UplinkConfig()
    update: UpdateConfig = UpdateConfig()
    status_s: Positive = 30.0
    metrics_s: Positive = 60.0
    log_level: Literal["debug", "info", "warning", "error"] = "info"


def load_config(path: Path) -> AgentConfig:
    """Read and check an agent's configuration file.

    Returns:
        The configuration; the files of broker, updates and actions are joined to the file's
        folder, other paths stay.

    Raises:
        ConfigError: ``FILE:LINE:COLUMN: FIELD: what is wrong``.
    """
    config, folder = load_settings(path, AgentConfig, _faults), path.resolve().parent
    update = _rooted(config.update, folder)
    ways = tuple(_rooted(way, folder) for way in update.ways)
    pipelines = tuple(
        msgspec.structs.replace(
            pipeline, actions=tuple(_rooted(action, folder) for action in pipeline.actions)
        )
        for pipeline in config.pipelines
    )
    return msgspec.structs.replace(
        config,
        broker=_rooted(config.broker, folder) if config.broker else None,
        update=msgspec.structs.replace(update, ways=ways),
        pipelines=pipelines,
    )


def _rooted(part: S, folder: Path) -> S:
    """A part with the paths of its files starting at the configuration's folder."""
    paths = {name: getattr(part, name, None) for name in _PATHS}
    joined = {name: str(folder / path) for name, path in paths.items() if path is not None}
    return msgspec.structs.replace(part, **joined)


def _faults(config: AgentConfig) -> Iterator[Fault]:
    """What is wrong beyond the types, in the order of the file."""
    if fault := name_fault("device", config.device):
        yield Fault("$.device", fault)
    for number, group in enumerate(config.groups):
        if fault := name_fault("group", group):
            yield Fault(f"$.groups[{number}]", fault)
    if config.broker:
        yield from _broker_faults(config.broker)
    yield from _update_faults(config)
    channels_of: dict[str, tuple[str, ...]] = {}
    for number, pipeline in enumerate(config.pipelines):
        at = f"$.pipelines[{number}]"
        yield from _pipeline_faults(at, pipeline)
        if channels_of.setdefault(pipeline.model, pipeline.channels) != pipeline.channels:
            yield Fault(f"{at}.channels", f"another pipeline runs {pipeline.model!r} on others")
        needs_broker = [
            *(
                f"{at}.source{where}"
                for where, source in plain_sources(pipeline.source)
                if isinstance(source, mqtt_source.MqttConfig)
            ),
            *(
                f"{at}.actions[{index}]"
                for index, action in enumerate(pipeline.actions)
                if isinstance(action, mqtt_action.MqttConfig)
            ),
        ]
        for where in needs_broker if config.broker is None else ():
            yield Fault(where, "type mqtt needs a broker: add `broker: {url: mqtt://HOST}`")
    yield from _twice(config.pipelines)


def _broker_faults(broker: BrokerConfig) -> Iterator[Fault]:
    try:
        tls = parse_url(broker.url).tls
    except ConfigError as exc:
        yield Fault("$.broker.url", str(exc))
        return
    if fault := prefix_fault(broker.prefix):
        yield Fault("$.broker.prefix", fault)
    if broker.password_file and broker.password_env:
        yield Fault("$.broker.password_env", "give password_file or password_env, not both")
    if (broker.password_file or broker.password_env) and broker.username is None:
        yield Fault("$.broker", "a password needs a username")
    if (broker.cert_file is None) != (broker.key_file is None):
        yield Fault("$.broker", "cert_file and key_file go together")
    if not tls and (broker.ca_file or broker.cert_file):
        yield Fault("$.broker.url", "certificates need mqtts://")


def _update_faults(config: AgentConfig) -> Iterator[Fault]:
    update = config.update
    if not update.enabled:
        return
    needs_broker = (RetainedConfig, RequestConfig)
    for number, way in enumerate(update.ways):
        if isinstance(way, HttpsConfig) and (fault := web_url_fault(way.url)):
            yield Fault(f"$.update.ways[{number}].url", fault)
        if config.broker is None and isinstance(way, needs_broker) and way != RetainedConfig():
            yield Fault(f"$.update.ways[{number}]", "this way needs a broker")
    if update.root_file and update.unsigned:
        yield Fault("$.update.unsigned", "give root_file or unsigned, not both")
    listens = config.broker is not None or update.ways != (RetainedConfig(),)
    if listens and not update.root_file and not update.unsigned:
        yield Fault(
            "$.update" if update != UpdateConfig() else "$",
            "updates need `update: {root_file: root.json}`, which edge-fleet init makes; or "
            "`enabled: false`; or, for development only, `unsigned: true`",
        )


def _pipeline_faults(at: str, pipeline: PipelineConfig) -> Iterator[Fault]:
    if fault := name_fault("pipeline", pipeline.name):
        yield Fault(f"{at}.name", fault)
    if fault := name_fault("model", pipeline.model):
        yield Fault(f"{at}.model", fault)
    if len(set(pipeline.channels)) != len(pipeline.channels):
        yield Fault(f"{at}.channels", "a channel is given twice")
    if fault := parts_fault(pipeline.source, pipeline.channels):
        yield Fault(f"{at}.source", fault)
    if names_sensors(pipeline.source) != (pipeline.sensors is not None):
        yield Fault(
            f"{at}.source",
            "`sensors` and a source that names them go together: type jsonl, follow, mqtt or http "
            "with a `sensor_key`, or mqtt with `sensor_topic`",
        )


def _twice(pipelines: tuple[PipelineConfig, ...]) -> Iterator[Fault]:
    """What only one pipeline can have: a name, and standard input."""
    names: set[str] = set()
    stdin_taken = False
    for number, pipeline in enumerate(pipelines):
        if pipeline.name in names:
            yield Fault(f"$.pipelines[{number}].name", "another pipeline has this name")
        names.add(pipeline.name)
        for where, source in plain_sources(pipeline.source):
            if isinstance(source, jsonl.JsonlConfig):
                if stdin_taken:
                    fault = "only one source can read stdin"
                    yield Fault(f"$.pipelines[{number}].source{where}", fault)
                stdin_taken = True
