"""The forms that `rinsc.export` writes, and what it has written."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from rinsc.backends.onnx.form import OnnxForm
from rinsc.scalars import html_table, rounded_bytes

if TYPE_CHECKING:
    from rinsc.graph import Rounds
    from rinsc.verbs.quality import QualityReport

FRESH = "no weights were given; the model has fresh, untrained ones"


@dataclass(frozen=True)
class TorchForm:
    """Python source of a PyTorch module, which holds no weights.

    ``rounds`` None leaves them to run time; a number writes that many out. With ``cache`` the
    module continues sequences.
    """

    rounds: Rounds = None
    cache: bool = False


@dataclass(frozen=True)
class HfForm:
    """A folder that transformers loads with ``trust_remote_code=True``, where there is no rinsc.

    ``rounds`` are those that run where a pass asks for no others; None for those written.
    """

    rounds: Rounds = None


Form: TypeAlias = OnnxForm | TorchForm | HfForm
FORMS: Mapping[str, type[Form]] = {"onnx": OnnxForm, "torch": TorchForm, "hf": HfForm}


@dataclass(frozen=True)
class Exported:
    """What `export` has written.

    ``files`` are paths and their sizes in bytes, the model's first. ``metadata`` are what an ONNX
    file says of itself. ``quality`` holds bits per byte on held-out text by rounds, where the model
    is a run's and has a precision or rounds to compare.
    """

    path: Path
    files: Mapping[Path, int]
    form: Form
    signature: str
    rounds: Rounds = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    quality: QualityReport | None = None

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(self.files.values())

    def __repr__(self) -> str:
        names = ", ".join(path.name for path in self.files)
        return f"<Exported {self.signature} to {self.path} ({rounded_bytes(self.size)}: {names})>"

    def _repr_html_(self) -> str:
        rows = [(str(path), rounded_bytes(size)) for path, size in self.files.items()]
        quality = "" if self.quality is None else self.quality._repr_html_()
        title = f"{escape(self.signature)} · {escape(rounded_bytes(self.size))}"
        return f"<div><p>{title}</p>{html_table([], rows)}{quality}</div>"


def said_written(folder: Path, files: Sequence[Path]) -> str:
    """A folder and what was written to it, in a line."""
    size = rounded_bytes(sum(path.stat().st_size for path in files))
    names = ", ".join(path.name for path in files)
    return f"wrote {folder}{os.sep} ({size}: {names})"
