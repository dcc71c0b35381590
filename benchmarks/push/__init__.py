"""What an update costs: one device, a whole group, and kills in the middle of it."""

from typing import Final

from edge_agent.contract.topics import Topics

MODEL: Final = "cnn"
GROUP: Final = "bench"
TOPICS: Final = Topics("edge")
