"""The demo: the whole way on real sensor data, by the three commands as processes of their own.

It stands on both sides at once: it trains and converts as an operator does, and watches a device.
So it may import the converter, which the runtime never does; nothing imports the demo but the
command that runs it.
"""

from edge_agent.demo.story import run

__all__ = ["run"]
