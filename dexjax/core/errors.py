"""The errors that dexjax raises on bad input: what was wrong, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DexjaxError(ValueError):
    """Base of all errors caused by input; command lines print it as one line and exit with 2."""


class ConfigError(DexjaxError):
    """An unknown name or an impossible combination of settings."""


class DataError(DexjaxError):
    """A file, mesh, cache or checkpoint that cannot be used; the message names file and field."""


class MissingExtraError(DexjaxError):
    """An optional dependency is absent; the message names the extra that brings it."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ConfigError:
    """Error for a name that is not registered, with the nearest valid names."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(names)}"
    return ConfigError(f"unknown {kind} {name!r}; {hint}")
