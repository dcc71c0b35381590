"""What stands between a reading and a decision, for one model: quality, window, model, decider.

It is replaced as a whole when the model is.
"""

from __future__ import annotations

import contextlib

import numpy as np

from edge_agent.config import DecideConfig, PipelineConfig
from edge_agent.contract.errors import ConfigError, InferenceError
from edge_agent.contract.manifest import Manifest
from edge_agent.decide import Decider, require_states, resolve
from edge_agent.infer import Model
from edge_agent.metrics import Counters
from edge_agent.quality import Quality
from edge_agent.window import Window


class Chain:
    """The parts in the order in which a reading passes them. Used by one thread.

    Args:
        model: that fits, see :func:`misfit`.
        override: of the bundle's decision defaults.
        counters: of the pipeline.

    Attributes:
        version: of the bundle.
        labels: by the model's label index; one empty label for regression.
    """

    def __init__(self, model: Model, override: DecideConfig, counters: Counters) -> None:
        manifest = model.manifest
        spec = manifest.window
        self.quality = Quality(manifest.channels, counters)
        self.window = Window(spec.length, spec.hop, len(manifest.channels))
        self.model = model
        self.decider = Decider(manifest.task, manifest.labels, resolve(manifest.decide, override))
        self.version = manifest.version
        self.labels = manifest.labels or ("",)

    def continue_from(self, old: Chain) -> None:
        """Keep the readings, the last good values and the state, as far as they mean the same.

        What a recurrent model carried means nothing to another: the new one begins from zeros.
        """
        self.quality.adopt(old.quality)
        self.window = old.window.resized(self.window.length, self.window.hop)
        self.decider.adopt(old.decider)

    def release(self) -> None:
        """Let the model's memory go; nothing can be decided by this chain any more."""
        self.model.release()

    def forget(self) -> None:
        """Drop the readings: a window never spans an outage of the source. The state stays."""
        self.quality.clear()
        self.window.clear()
        self.model.reset()


def misfit(config: PipelineConfig, manifest: Manifest) -> str | None:
    """Say why a bundle cannot run in a pipeline; None when it can."""
    if manifest.name != config.model:
        return f"pipeline {config.name} runs the model {config.model}, not {manifest.name}"
    wanted = tuple(channel.name for channel in manifest.channels)
    if wanted != config.channels:
        return (
            f"the bundle wants the channels {', '.join(wanted)}; pipeline {config.name} "
            f"delivers {', '.join(config.channels)}"
        )
    try:
        require_states(resolve(manifest.decide, config.decide), manifest)
    except ConfigError as exc:
        return f"pipeline {config.name}: {exc}"
    return None


def warm_up(model: Model) -> None:
    """Run a model once, so that its code and memory are there before the first reading."""
    spec = model.manifest.window
    # Zeros may be no sensible input to this model: then its code is warm all the same.
    with contextlib.suppress(InferenceError):
        model.answer(np.zeros((spec.length, len(model.manifest.channels)), np.float32))
    model.reset()
