"""YAML files as typed settings: every mistake with its file, line and column.

Used for the agent's configuration and the converter's recipes alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
import yaml
from msgspec import inspect

from edge_agent.contract.errors import ConfigError

_NODES_MAX: Final = 20_000  # an alias of an alias of … grows without end
_DEPTH_MAX: Final = 30
_AT: Final = re.compile(r"(?P<text>.*) - at `(?P<path>\$[^`]*)`", re.DOTALL)
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(?P<name>.*)`")
_STEP: Final = re.compile(r"\.(?P<field>[^.\[]+)|\[(?P<index>\d+|\.\.\.)\]")

T = TypeVar("T")


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Plain settings: unknown fields are errors."""


class Kind(Settings, frozen=True, kw_only=True, tag_field="type"):
    """Settings of one kind of source or action, chosen by the field ``type``."""


class Fault(NamedTuple):
    """Something wrong beyond the types.

    Attributes:
        path: where, e.g. ``$.pipelines[0].name``.
        text: what, and what to do about it.
    """

    path: str
    text: str


def load_settings(
    path: Path, kind: type[T], faults: Callable[[T], Iterable[Fault]] = lambda _: ()
) -> T:
    """Read a YAML file as ``kind``.

    Args:
        path: of the file, UTF-8.
        kind: a :class:`Settings`.
        faults: what is wrong beyond the types; the first is raised.

    Raises:
        ConfigError: ``FILE:LINE:COLUMN: PATH: what is wrong``, with the nearest field name.
    """
    root, value = _parse(path, _read(path))
    marks: dict[str, yaml.Mark] = {}
    _walk(path, root, "$", marks, 0)
    try:
        settings = msgspec.convert(value(), kind)
    except msgspec.ValidationError as exc:
        raise _located(path, marks, *_explain(str(exc), kind, value())) from exc
    for fault in faults(settings):
        raise _located(path, marks, *fault)
    return settings


def read_fields(path: Path) -> dict[str, Any]:
    """The plain values of a YAML file, which is checked as YAML and nothing more.

    Raises:
        ConfigError: ``FILE:LINE:COLUMN: what is wrong``.
    """
    root, value = _parse(path, _read(path))
    _walk(path, root, "$", {}, 0)
    fields: dict[str, Any] = value()
    return fields


def format_fields(fields: dict[str, Any]) -> str:
    """Plain values as YAML, in their order."""
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: cannot be read: {exc}") from exc


def _parse(path: Path, text: str) -> tuple[yaml.Node, Callable[[], Any]]:
    """The root node, and a function that builds plain values from it once it has been checked."""
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as exc:
        hint = " (indent with spaces, not tabs)" if "'\\t'" in str(exc.problem) else ""
        raise ConfigError(f"{_at(path, exc.problem_mark)}: {exc.problem}{hint}") from exc
    except yaml.YAMLError as exc:
        raise ConfigError(f"{path}: not YAML: {exc}") from exc
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{path}:1:1: expected `name: value` lines, found {_noun(root)}")

    def value() -> Any:
        try:
            return loader.construct_document(root)
        except yaml.MarkedYAMLError as exc:
            raise ConfigError(f"{_at(path, exc.problem_mark)}: {exc.problem}") from exc

    return root, value


def _walk(path: Path, node: yaml.Node, where: str, marks: dict[str, yaml.Mark], depth: int) -> None:
    """Note where each value stands; refuse duplicate keys, odd keys and runaway aliases."""
    if len(marks) > _NODES_MAX or depth > _DEPTH_MAX:
        raise ConfigError(f"{_at(path, node.start_mark)}: the file is nested or aliased too deeply")
    marks[where] = node.start_mark
    if isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            _walk(path, item, f"{where}[{number}]", marks, depth + 1)
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, item in node.value:
            if key.tag != "tag:yaml.org,2002:str" and key.value != "<<":
                hint = "put it in quotes" if isinstance(key, yaml.ScalarNode) else "use a word"
                raise ConfigError(f"{_at(path, key.start_mark)}: {key.value!r} as a name: {hint}")
            if key.value in seen:
                raise ConfigError(f"{_at(path, key.start_mark)}: {key.value!r} is given twice")
            seen.add(key.value)
            _walk(path, item, f"{where}.{key.value}", marks, depth + 1)
            marks[f"{where}.{key.value}!"] = key.start_mark


def _explain(message: str, kind: type, value: Any) -> tuple[str, str]:
    """Path and text of msgspec's message, in our words where they help more."""
    match = _AT.fullmatch(message)
    where, text = (match["path"], match["text"]) if match else ("$", message)
    if unknown := _UNKNOWN.fullmatch(text):
        name = unknown["name"]
        names = _field_names(inspect.type_info(kind), where, value)
        import difflib  # noqa: PLC0415 - only for whoever has mistyped something

        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(names))}"
        return f"{where}.{name}!", f"there is no field {name!r} here; {hint}"
    if text.startswith("Expected `str`, got"):
        return where, f"{text}: put the value in quotes"
    if text.startswith("Invalid value") and where.endswith(".type"):
        known = _tags(inspect.type_info(kind), where.removesuffix(".type"), value)
        return where, f"{text}; known are {', '.join(sorted(known))}"
    return where, text


def _field_names(info: inspect.Type, where: str, value: Any) -> list[str]:
    """The fields that may stand at a path."""
    names: list[str] = []
    for struct, at in _structs(info, where, value):
        tag = at.get(struct.tag_field) if struct.tag_field and isinstance(at, dict) else None
        if struct.tag_field is None or tag == struct.tag:
            names += [field.encode_name for field in struct.fields]
    return names


def _tags(info: inspect.Type, where: str, value: Any) -> list[str]:
    """The values that ``type`` may have at a path."""
    return [str(struct.tag) for struct, _ in _structs(info, where, value)]


def _structs(info: inspect.Type, where: str, value: Any) -> list[tuple[inspect.StructType, Any]]:
    """The structs that a path may mean, each with the plain value found there."""
    here: list[tuple[inspect.Type, Any]] = [(info, value)]
    for step in _STEP.finditer(where):
        here = [found for at in here for found in _enter(at, step)]
    flat = [found for at in here for found in _flatten(at)]
    return [(found, at) for found, at in flat if isinstance(found, inspect.StructType)]


def _enter(at: tuple[inspect.Type, Any], step: re.Match[str]) -> list[tuple[inspect.Type, Any]]:
    """One step down a path, through every alternative of a union."""
    found: list[tuple[inspect.Type, Any]] = []
    for info, value in _flatten(at):
        if step["field"] and isinstance(info, inspect.StructType):
            below = value.get(step["field"]) if isinstance(value, dict) else None
            found += [(f.type, below) for f in info.fields if f.encode_name == step["field"]]
        elif step["index"] and isinstance(info, (inspect.VarTupleType, inspect.ListType)):
            below = value[int(step["index"])] if step["index"].isdigit() else None
            found.append((info.item_type, below))
    return found


def _flatten(at: tuple[inspect.Type, Any]) -> list[tuple[inspect.Type, Any]]:
    info, value = at
    if isinstance(info, inspect.Metadata):
        return _flatten((info.type, value))
    if isinstance(info, inspect.UnionType):
        return [found for option in info.types for found in _flatten((option, value))]
    return [at]


def _located(path: Path, marks: dict[str, yaml.Mark], where: str, text: str) -> ConfigError:
    """The error at a path, or at the nearest enclosing value that stands in the file."""
    at = where
    while at not in marks:
        at = at[: max(at.rfind("."), at.rfind("["))] if len(at) > 1 else "$"
    shown = where.removeprefix("$").removeprefix(".").removesuffix("!")
    return ConfigError(
        f"{_at(path, marks[at])}: {shown}: {text}" if shown else f"{_at(path, marks[at])}: {text}"
    )


def _at(path: Path, mark: yaml.Mark | None) -> str:
    return f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)


def _noun(node: yaml.Node | None) -> str:
    if node is None:
        return "nothing"
    return "a list" if isinstance(node, yaml.SequenceNode) else "a single value"
