"""The demo: the whole way on real sensor data, by the three commands as processes of their own.

It stands on both sides at once: it trains and converts as an operator does, and watches a device.
So it may import the converter, which the runtime never does; nothing imports the demo but the
command that runs it.
"""

from edge_agent.contract.errors import ConfigError

try:
    from edge_agent.demo.story import run
except ModuleNotFoundError as exc:
    if (exc.name or "").split(".")[0] in {"edge_agent", "converter"}:
        raise
    raise ConfigError(
        f"the demo needs {exc.name}, which a device does not: pip install 'edge-agent[demo]'"
    ) from exc

__all__ = ["run"]
