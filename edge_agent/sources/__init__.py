"""Where readings come from: one file a source, and the one table that names them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from edge_agent.clock import Clock
from edge_agent.contract.errors import ConfigError
from edge_agent.settings import Kind
from edge_agent.sources.aligned import AlignedConfig, AlignedSource
from edge_agent.sources.audio import AudioConfig, audio_source
from edge_agent.sources.base import Source
from edge_agent.sources.follow import FollowConfig, FollowSource
from edge_agent.sources.gpio import GpioConfig, GpioSource
from edge_agent.sources.http import HttpConfig, HttpSource
from edge_agent.sources.i2c import I2cConfig, I2cSource
from edge_agent.sources.iio import IioConfig, IioSource
from edge_agent.sources.jsonl import JsonlConfig, JsonlSource
from edge_agent.sources.modbus import ModbusConfig, ModbusSource
from edge_agent.sources.mqtt import MqttConfig, MqttSource, line_to
from edge_agent.sources.replay import ReplayConfig, ReplaySource
from edge_agent.sources.serial import SerialConfig, SerialSource
from edge_agent.sources.simulated import SimulatedConfig, SimulatedSource

if TYPE_CHECKING:  # edge_agent.config imports this module
    from edge_agent.config import BrokerConfig

PlainConfig = (
    ReplayConfig
    | JsonlConfig
    | MqttConfig
    | SimulatedConfig
    | SerialConfig
    | IioConfig
    | FollowConfig
    | ModbusConfig
    | I2cConfig
    | GpioConfig
    | HttpConfig
    | AudioConfig
)
SourceConfig = PlainConfig | AlignedConfig


class _Site(NamedTuple):
    """What a source may need beside its own configuration; see :func:`make_source`."""

    channels: Sequence[str]
    base: Path
    broker: BrokerConfig | None
    clock: Clock


def make_source(
    config: SourceConfig,
    *,
    channels: Sequence[str],
    base: Path,
    broker: BrokerConfig | None,
    clock: Clock,
) -> Source:
    """The source that a configuration asks for, not open yet.

    Args:
        config: of the source.
        channels: names of what it delivers, in order.
        base: folder of the configuration file; relative paths start there.
        broker: of the agent, for sources that read from it.
        clock: for sources that keep a pace.

    Raises:
        ConfigError: it needs a broker and there is none.
    """
    return _MAKERS[type(config)](config, _Site(channels, base, broker, clock))


def names_sensors(source: SourceConfig) -> bool:
    """Whether a source says which of many sensors each reading is of."""
    return bool(getattr(source, "sensor_key", None) or getattr(source, "sensor_topic", False))


def plain_sources(source: SourceConfig) -> list[tuple[str, PlainConfig]]:
    """A source, or those that it aligns, and where they stand below it in the file."""
    if not isinstance(source, AlignedConfig):
        return [("", source)]
    return [(f".parts[{number}].source", part.source) for number, part in enumerate(source.parts)]


def parts_fault(source: SourceConfig, channels: Sequence[str]) -> str | None:
    """Why sources cannot be aligned to these channels, if they cannot."""
    if not isinstance(source, AlignedConfig):
        return None
    if sorted(name for part in source.parts for name in part.channels) != sorted(channels):
        return "the channels of the parts must be those of the pipeline, each once"
    if any(names_sensors(part.source) for part in source.parts):
        return "sources of many sensors cannot be aligned: leave out sensor_key and sensor_topic"
    return None


def _replay(config: ReplayConfig, site: _Site) -> Source:
    return ReplaySource(config, site.channels, base=site.base, clock=site.clock)


def _jsonl(config: JsonlConfig, site: _Site) -> Source:
    return JsonlSource(config, site.channels)


def _mqtt(config: MqttConfig, site: _Site) -> Source:
    broker = site.broker
    if broker is None:
        raise ConfigError("a source of type mqtt needs a broker: add `broker: {url: mqtt://HOST}`")
    return MqttSource(config, site.channels, line=line_to(broker))


def _simulated(config: SimulatedConfig, site: _Site) -> Source:
    return SimulatedSource(config, site.channels, clock=site.clock)


def _serial(config: SerialConfig, site: _Site) -> Source:
    return SerialSource(config, site.channels)


def _iio(config: IioConfig, site: _Site) -> Source:
    return IioSource(config, site.channels, clock=site.clock)


def _follow(config: FollowConfig, site: _Site) -> Source:
    return FollowSource(config, site.channels, base=site.base)


def _modbus(config: ModbusConfig, site: _Site) -> Source:
    return ModbusSource(config, site.channels, clock=site.clock)


def _i2c(config: I2cConfig, site: _Site) -> Source:
    return I2cSource(config, site.channels, clock=site.clock)


def _gpio(config: GpioConfig, site: _Site) -> Source:
    return GpioSource(config, site.channels, clock=site.clock)


def _http(config: HttpConfig, site: _Site) -> Source:
    return HttpSource(config, site.channels, base=site.base)


def _audio(config: AudioConfig, site: _Site) -> Source:
    return audio_source(config, site.channels, base=site.base, clock=site.clock)


def _aligned(config: AlignedConfig, site: _Site) -> Source:
    parts = [
        _MAKERS[type(part.source)](part.source, site._replace(channels=part.channels))
        for part in config.parts
    ]
    return AlignedSource(config, site.channels, parts=parts, clock=site.clock)


_MAKERS: Final[dict[type[Kind], Callable[[Any, _Site], Source]]] = {
    ReplayConfig: _replay,
    JsonlConfig: _jsonl,
    MqttConfig: _mqtt,
    SimulatedConfig: _simulated,
    SerialConfig: _serial,
    IioConfig: _iio,
    FollowConfig: _follow,
    ModbusConfig: _modbus,
    I2cConfig: _i2c,
    GpioConfig: _gpio,
    HttpConfig: _http,
    AudioConfig: _audio,
    AlignedConfig: _aligned,
}
