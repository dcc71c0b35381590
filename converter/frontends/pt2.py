"""A ``.pt2`` file without anything that loading it could run.

``torch.export.load`` trusts its file: it unpickles sample inputs, some weights and opaque
constants, loads shared libraries, evaluates the texts of sizes (by sympy) and of guards, and writes
names into Python source that it runs. Reviewed with torch 2.13. Here every member must be one of
those that a plain model has, every text be one that can only be what it is meant to be, and what
only serves people (stack traces) or checks what is checked here (guards) is left out.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from edge_agent.contract.errors import ConfigError

_MEMBERS: Final = re.compile(
    r"archive_format|archive_version|byteorder|\.data/\w+|\.format_version|\.storage_alignment|"
    r"models/\w+\.json|data/sample_inputs/\w+\.pt|"
    r"data/(weights/weight_\d+|weights/\w+_weights_config\.json|"
    r"constants/tensor_\d+|constants/\w+_constants_config\.json)"
)
_PAYLOADS: Final = re.compile(r"(weight|tensor)_\d+")
_OPERATORS: Final = re.compile(
    r"torch\.ops\.(aten|prims)\.\w+\.\w+|_operator\.(getitem|add|sub|mul|floordiv|mod|neg)|"
    r"torch\.sym_(max|min|not|int|float)|math\.(ceil|floor|trunc)"
)
_NAME: Final = re.compile(r"[\w.]*")
_SIZE: Final = re.compile(
    r"(Symbol\('[su]\d+'(, (integer|nonnegative|positive|nonzero)=True)*\)|[su]\d+|\d+|"
    r"(Add|CeilDiv|CleanDiv|Eq|FloorDiv|Ge|Gt|Integer|Le|Lt|Max|Min|Mod|Mul|Ne|PythonMod)\b|"
    r"[-+*/(), ])+"
)
_SIZE_CHARS_MAX: Final = 500
_DROPPED: Final = frozenset({"metadata", "guards_code"})
_SPECS: Final = frozenset({"in_spec", "out_spec"})
_SPEC_TYPES: Final = frozenset({None, "builtins.tuple", "builtins.list", "builtins.dict"})
_FIX: Final = "save it anew by torch.export.save, from a module of standard layers"


def clean_archive(path: Path, torch: Any) -> io.BytesIO:
    """A copy of a file of ``torch.export.save`` that holds nothing but a plain model.

    Args:
        path: of the file.
        torch: the package.

    Raises:
        ConfigError: damaged, or it holds what could run code or cannot be converted; named.
    """
    copy = io.BytesIO()
    try:
        with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copy, "w") as kept:
            for entry in archive.infolist():
                content = archive.read(entry)
                inner = entry.filename.partition("/")[2]
                if not _MEMBERS.fullmatch(inner):
                    raise ConfigError(
                        f"holds {inner or entry.filename}, no part of a plain model: {_FIX}"
                    )
                kept.writestr(entry.filename, _clean(inner, content, torch))
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, ValueError) as exc:
        raise ConfigError(f"is no .pt2 file, or a damaged one: {exc}; {_FIX}") from exc
    copy.seek(0)
    return copy


def _clean(member: str, content: bytes, torch: Any) -> bytes:
    """One member, checked and without what is not needed."""
    if member.endswith("_config.json"):
        _require_plain_payloads(json.loads(content))
    elif member.startswith("models/"):
        model = json.loads(content)
        _require_specs(model)
        return json.dumps(_without_notes(model)).encode()
    elif member.endswith(".pt") and content:
        try:
            torch.load(io.BytesIO(content), weights_only=True)
        except Exception as exc:  # the restricted unpickler raises many kinds
            raise ConfigError(f"its {member} holds more than tensors: {_FIX}") from exc
    return content


def _require_plain_payloads(config: Any) -> None:
    """No weight and no constant may be a pickle."""
    for name, payload in config["config"].items():
        if payload["use_pickle"] is not False or not _PAYLOADS.fullmatch(payload["path_name"]):
            raise ConfigError(f"its {name!r} is a pickle, which runs any code in it: {_FIX}")
        _without_notes({name: payload})


def _require_specs(model: Any) -> None:
    """Inputs and outputs are tensors in plain tuples, lists and dicts."""
    for text in _values(model, _SPECS):
        for kind in _values(json.loads(text), frozenset({"type"})):
            if kind not in _SPEC_TYPES:
                raise ConfigError(f"its inputs or outputs are in a {kind}: use tuples of tensors")
        if "__enum__" in text:
            raise ConfigError("its inputs or outputs name an enum: use tuples of tensors")


def _without_notes(value: Any, key: str = "") -> Any:
    """A copy without stack traces and guards, all texts of which are harmless.

    Raises:
        ConfigError: one is not, or an operator is not PyTorch's own.
    """
    if isinstance(value, dict):
        for name in value:
            _require_name(name, name)
        return {
            name: type(inner)() if name in _DROPPED else _without_notes(inner, name)
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [_without_notes(inner, key) for inner in value]
    if isinstance(value, str) and key not in _SPECS:
        if key == "target" and not _OPERATORS.fullmatch(value):
            raise ConfigError(f"uses the operator {value}, which is not PyTorch's own: {_FIX}")
        if key == "expr_str" and (len(value) > _SIZE_CHARS_MAX or not _SIZE.fullmatch(value)):
            raise ConfigError(f"states a size that is no formula of sizes, {value[:60]!r}: {_FIX}")
        if key not in {"target", "expr_str"}:
            _require_name(value, key)
    return value


def _require_name(text: str, key: str) -> None:
    if not _NAME.fullmatch(text.replace("+", "").replace("-", "")):
        raise ConfigError(f"its {key[:40]!r} is {text[:60]!r}, which is no name: {_FIX}")


def _values(value: Any, keys: frozenset[str]) -> Iterator[Any]:
    """The values at these keys, at any depth."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name in keys:
                yield inner
            else:
                yield from _values(inner, keys)
    elif isinstance(value, list):
        for inner in value:
            yield from _values(inner, keys)
