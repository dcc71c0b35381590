"""What a fired decision does: one file an action, and the one table that names them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from edge_agent.actions.base import Action, Direct, Send
from edge_agent.actions.exec import ExecAction, ExecConfig
from edge_agent.actions.file import FileAction, FileConfig
from edge_agent.actions.gpio import GpioAction, GpioConfig
from edge_agent.actions.log import LogAction, LogConfig
from edge_agent.actions.mqtt import MqttAction, MqttConfig
from edge_agent.actions.webhook import WebhookAction, WebhookConfig
from edge_agent.settings import Kind

ActionConfig = LogConfig | MqttConfig | ExecConfig | FileConfig | WebhookConfig | GpioConfig


def make_action(config: ActionConfig, *, send: Send, direct: Direct | None = None) -> Action:
    """The action that a configuration asks for.

    Args:
        config: of the action.
        send: hands a payload for a topic to the outbox.
        direct: sends one at once, on the pipeline's thread; None where there is no such way.
    """
    return _MAKERS[type(config)](config, send, direct)


_MAKERS: Final[dict[type[Kind], Callable[[Any, Send, Direct | None], Action]]] = {
    LogConfig: lambda _config, _send, _direct: LogAction(),
    MqttConfig: lambda config, send, direct: MqttAction(config, send=send, direct=direct),
    ExecConfig: lambda config, _send, _direct: ExecAction(config),
    FileConfig: lambda config, _send, _direct: FileAction(config),
    WebhookConfig: lambda config, _send, _direct: WebhookAction(config),
    GpioConfig: lambda config, _send, _direct: GpioAction(config),
}
