"""What a fired decision does: one file an action, and the one table that names them."""

from __future__ import annotations

from edge_agent.actions.exec import ExecConfig
from edge_agent.actions.log import LogConfig
from edge_agent.actions.mqtt import MqttConfig

ActionConfig = LogConfig | MqttConfig | ExecConfig
