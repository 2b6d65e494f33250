"""Reads a frozen dataclass from YAML, and says in one sentence what is wrong. Depends on pyyaml.

Unknown keys are named with the nearest known one; a value of another type is never converted,
but for what YAML reads as text although it is a number (``1e-3``).
"""

import difflib
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml

from sinkscope.errors import InputError

__all__ = ["from_mapping", "read_yaml"]

WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    tuple: "a list",
    types.NoneType: "null",
}


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file's mapping, by a loader that makes no objects.

    Raises:
        InputError: no such file, not YAML, or no mapping.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; name a configuration file.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} holds no settings; write lines such as 'model: tiny-avsr'.")
    return values


def from_mapping(kind: Any, values: Mapping[str, Any], *, where: str) -> Any:
    """A dataclass from a mapping, its sections (dataclasses, too) from mappings in it.

    Args:
        kind: the dataclass.
        values: its fields.
        where: the file, for messages.

    Raises:
        InputError: an unknown or missing field, or a value of another type.
    """
    hints = get_type_hints(kind)
    for name in values:
        if name not in hints:
            raise InputError(f"{where}: there is no key {name!r}; {_nearest(str(name), hints)}")
    missing = [one.name for one in fields(kind) if _required(one) and one.name not in values]
    if missing:
        raise InputError(f"{where}: the key {missing[0]!r} is missing; give it.")
    read = {name: _value(hints[name], value, f"{where}, {name}") for name, value in values.items()}
    return kind(**read)


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known are {', '.join(known)}."


def _required(field: Any) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _value(hint: Any, value: Any, where: str) -> Any:
    """A value as its field's type has it."""
    kinds = list(get_args(hint)) if _is_union(hint) else [hint]
    for kind in kinds:
        if is_dataclass(kind) and isinstance(value, Mapping):
            return from_mapping(kind, value, where=where)
        if get_origin(kind) is tuple and isinstance(value, list | tuple):
            return tuple(_value(get_args(kind)[0], one, where) for one in value)
        if _fits(kind, value):
            return float(value) if kind is float else value
    known = [kind for kind in kinds if not (kind is int and float in kinds)]
    wanted = " or ".join(dict.fromkeys(_word(kind) for kind in known))
    raise InputError(f"{where}: {value!r} was found; give {wanted}.")


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType)


def _fits(kind: Any, value: Any) -> bool:
    if kind is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number or (isinstance(value, str) and _is_number(value))
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(kind, type) and isinstance(value, kind)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _word(kind: Any) -> str:
    if is_dataclass(kind):
        return f"a section with {', '.join(one.name for one in fields(kind))}"
    return WORDS.get(get_origin(kind) or kind, str(kind))
