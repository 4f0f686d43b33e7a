"""Plain values, and their JSON."""

from __future__ import annotations

import json
from math import isfinite


def as_json(value: object, indent: int | None = None) -> str:
    """The JSON of a plain value, in one line unless `indent` says otherwise. JSON has no NaN: what is not finite becomes null.

    What UTF-8 cannot hold, such as the name of a file in another encoding, is written as an escape, and comes back.
    """
    text = json.dumps(finite(value), indent=indent, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace").decode()


def is_plain(value: object) -> bool:
    """Whether the value comes back from JSON as it is: text, finite numbers, None, lists, and dictionaries with text as keys."""
    try:
        return bool(json.loads(json.dumps(value, allow_nan=False)) == value)
    except (TypeError, ValueError, RecursionError):
        return False


def finite(value: object) -> object:
    """The same plain value with None for every NaN and infinity in it."""
    if isinstance(value, float) and not isfinite(value):
        return None
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    return [finite(v) for v in value] if isinstance(value, (list, tuple)) else value
