"""Where corpora that were added, and texts that were tokenized, are kept."""

from __future__ import annotations

import os
import sys
from pathlib import Path

VARIABLE = "RINSC_DATA"


def expanded(where: str) -> Path:
    """The path with a user's home in place of ``~``; left as it is where there is no such user."""
    return Path(os.path.expanduser(where))


def data_folder() -> Path:
    """``RINSC_DATA`` where it is set, else ``rinsc`` in the user's cache directory."""
    named = os.environ.get(VARIABLE)
    if named:
        return expanded(named).absolute()
    return _user_cache() / "rinsc"


def corpora_folder() -> Path:
    return data_folder() / "corpora"


def tokens_folder() -> Path:
    return data_folder() / "tokens"


def _user_cache() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
