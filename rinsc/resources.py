"""Where the data beside the package lies: the grammar and the zoo of variants."""

from __future__ import annotations

import re
from pathlib import Path

from rinsc.errors import RinscError

_PACKAGE = Path(__file__).resolve().parent
_ENTRY = re.compile(r"[a-z][a-z0-9.-]*")  # never a signature, whose letters are upper case


def grammar_text() -> str:
    """The grammar of the notation, ``grammar/signature.lark``."""
    return (_data_dir("grammar") / "signature.lark").read_text(encoding="utf-8")


def zoo_dir() -> Path:
    """The folder that holds one TOML file per variant."""
    return _data_dir("zoo")


def zoo_file(name: str) -> Path | None:
    """The file of the zoo's entry of this name; None where there is none."""
    path = zoo_dir() / f"{name}.toml"
    return path if _ENTRY.fullmatch(name) and path.is_file() else None


def _data_dir(name: str) -> Path:
    """The folder ``name``: inside an installed package, else in the checkout beside it.

    Raises RinscError (``broken-installation``) when it is in neither place.
    """
    for parent in (_PACKAGE / "_data", _PACKAGE.parent):
        if (parent / name).is_dir():
            return parent / name
    raise RinscError(
        code="broken-installation",
        message=f"the folder '{name}' of rinsc is missing",
        place=str(_PACKAGE),
        hint="install rinsc again",
    )
