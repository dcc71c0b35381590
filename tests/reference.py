"""The reference of every field, rendered from the docstrings of the settings themselves.

``python tests/reference.py`` writes ``device_configs/REFERENCE.md``; a test fails when it is stale.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from converter import model_io, recipe
from edge_agent import config
from edge_agent.actions import ActionConfig
from edge_agent.contract import experiment, manifest
from edge_agent.sources import SourceConfig

TARGET = Path(__file__).resolve().parent.parent / "device_configs" / "REFERENCE.md"

AGENT = (
    ("The whole file", config.AgentConfig),
    ("`broker`", config.BrokerConfig),
    ("`pipelines[]`", config.PipelineConfig),
    ("`pipelines[].decide`", manifest.DecideSpec),
    ("`pipelines[].sensors`", config.SensorsConfig),
    ("`outbox`", config.OutboxConfig),
    ("`uplink`", config.UplinkConfig),
    ("`update`", config.UpdateConfig),
)
RECIPE = (
    ("The whole file", recipe.Recipe),
    ("`data`", recipe.DataRecipe),
    ("`channels[]`", manifest.Channel),
    ("`window`", recipe.WindowRecipe),
    ("`features`", recipe.FeaturesRecipe),
    ("`quantize`", recipe.QuantizeRecipe),
    ("`model_io`", model_io.ModelIO),
    ("`decide`, the device's defaults", manifest.DecideSpec),
)
_FIELD = re.compile(r"^    (?P<name>\w+): (?P<text>.*(?:\n        .*)*)", re.MULTILINE)


def render() -> str:
    """The whole page."""
    parts = [
        "# Every field",
        "",
        "Rendered from the code by `python tests/reference.py`; a test fails when it is stale.",
        "",
        "## The agent's configuration",
        "",
    ]
    parts += [line for title, kind in AGENT for line in section(title, kind)]
    for where, union in (("source", SourceConfig), ("actions[]", ActionConfig)):
        for kind in union.__args__:
            tag = kind.__struct_config__.tag
            parts += section(f"`pipelines[].{where}` of `type: {tag}`", kind)
    parts += ["## The rule of a comparison", ""]
    parts += section("The whole file of `edge-fleet publish --rule`", experiment.Experiment)
    parts += ["## The recipe of a bundle", ""]
    parts += [line for title, kind in RECIPE for line in section(title, kind)]
    return "\n".join(parts)


def section(title: str, kind: type[msgspec.Struct]) -> Iterator[str]:
    """One struct: its sentence and a table of its fields."""
    yield f"### {title}"
    yield ""
    doc = inspect.getdoc(kind) or ""
    yield plain(doc.split("\n\nAttributes:")[0])
    yield ""
    texts = field_texts(kind)
    fields = msgspec.structs.fields(kind)
    if fields:
        yield "| field | default | meaning |"
        yield "|---|---|---|"
    for field in fields:
        yield f"| `{field.encode_name}` | {default(field)} | {texts[field.name]} |"
    yield ""


def field_texts(kind: type[msgspec.Struct]) -> dict[str, str]:
    """What the docstring says of each field."""
    doc = inspect.getdoc(kind) or ""
    found = _FIELD.finditer(doc.partition("Attributes:")[2])
    return {m["name"]: plain(m["text"]) for m in found}


def plain(text: str) -> str:
    """Docstring markup as Markdown, on one line."""
    return " ".join(re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text).replace("``", "`").split())


def default(field: Any) -> str:
    """The default as YAML would have it."""
    if field.default is msgspec.NODEFAULT and field.default_factory is msgspec.NODEFAULT:
        return "required"
    value = field.default
    if value is msgspec.NODEFAULT:
        value = field.default_factory()
    if isinstance(value, msgspec.Struct):
        return "as below"
    return f"`{msgspec.json.encode(value).decode()}`"


if __name__ == "__main__":
    TARGET.write_text(render())
