"""Where readings come from: one file a source, and the one table that names them."""

from __future__ import annotations

from edge_agent.sources.jsonl import JsonlConfig
from edge_agent.sources.mqtt import MqttConfig
from edge_agent.sources.replay import ReplayConfig
from edge_agent.sources.simulated import SimulatedConfig

SourceConfig = ReplayConfig | JsonlConfig | MqttConfig | SimulatedConfig
