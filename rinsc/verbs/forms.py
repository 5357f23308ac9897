"""The forms that `rinsc.export` writes, what it has written, and what stood there before: the same
form again, or one to be kept."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from rinsc.backends.onnx.contract import DATA_FILE, MODEL_FILE, Key
from rinsc.backends.onnx.form import OnnxForm
from rinsc.errors import OutputError, setting
from rinsc.graph import rounds_in_words
from rinsc.scalars import html_table, rounded_bytes
from rinsc.storage.files import cannot_write, parse_json, read_json

if TYPE_CHECKING:
    from rinsc.graph import Rounds
    from rinsc.verbs.reports import QualityReport

ONNX_KEYS = ("form", "rounds", "cache", "operators", "precision", "exit")  # of its metadata
HF_FILES = (
    *("model.safetensors", "config.json", "modeling_rinsc.py", "generation_config.json"),
    *("preprocessor_config.json", "checksums.json"),
)
ONNX_FILES = (MODEL_FILE, DATA_FILE, "genai_config.json", "heldout.txt")
SHARED_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")

# What a folder is, in words: {"kind": "onnx", "precision": "int4", …}.
FolderFacts: TypeAlias = Mapping[str, str]

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

    ``rounds`` are those that run where a pass asks for no others; None for those written. Two
    towers of SigLIP become a ``SiglipModel`` at these rounds, unless they keep a ``dial``.
    """

    rounds: Rounds = None
    dial: bool = False


@dataclass(frozen=True)
class PlainForm:
    """A folder of a class of transformers, such as Llama, which every engine loads without code.

    ``rounds`` are written out: a layer that runs twice stands there twice. None means those that
    the signature writes.
    """

    rounds: Rounds = None


Form: TypeAlias = OnnxForm | TorchForm | HfForm | PlainForm
FORMS: Mapping[str, type[Form]] = {
    "onnx": OnnxForm,
    "torch": TorchForm,
    "hf": HfForm,
    "llama": PlainForm,
}


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

    def facts(self) -> dict[str, object]:
        """What was written, as plain data."""
        facts: dict[str, object] = {
            "files": {str(path): size for path, size in self.files.items()},
            "signature": self.signature,
        }
        if not isinstance(self.form, TorchForm):
            facts["rounds"] = self.rounds
        if isinstance(self.form, OnnxForm):
            facts |= {
                "form": self.metadata[Key.FORM],
                "cache": parse_json(self.metadata[Key.CACHE]),
                "operators": self.metadata[Key.OPERATORS],
                "precision": self.metadata[Key.PRECISION],
                "exit": self.metadata[Key.EXIT] or None,
                "quality": None if self.quality is None else self.quality.facts(),
            }
        return facts

    @property
    def words(self) -> str:
        """Of an ONNX model: its form, operators and precision, and what ran it, in one line."""
        counts: Mapping[str, int] = self.rounds if isinstance(self.rounds, Mapping) else {}
        written, metadata = rounds_in_words(counts), self.metadata
        count = f"{written} round{'s' * (written != '1')}"
        rounds = {
            "fixed": count,
            "dynamic": f"any rounds ({written} if not given)",
            "gated": f"up to {count}",
        }
        facts = [
            rounds[metadata[Key.FORM]] if counts else "no repeat",
            "cache" if metadata[Key.CACHE] == "true" else "no cache",
            f"{metadata[Key.OPERATORS]} operators",
            metadata[Key.PRECISION],
        ]
        if metadata[Key.EXIT]:
            facts.append(f"ends early at {metadata[Key.EXIT]}")
        if self.quality is not None:
            facts.append(f"run by ONNX Runtime on {self.quality.provider}")
        return " · ".join(facts)

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


def check_no_run(path: Path) -> None:
    """Raises OutputError for the folder of a training run, which no model takes the place of."""
    from rinsc.training.run_folder import RunFolder

    if RunFolder(path).model_spec.exists():
        message = "the folder holds a training run; a model folder is one of its own"
        hint = "choose another folder"
        raise OutputError("run-exists", message, place=str(path), hint=hint)


@contextmanager
def in_place_of(
    folder: Path | None, form: Callable[[], FolderFacts], *, overwrite: bool
) -> Iterator[None]:
    """In the body a model of ``form`` is written to ``folder``, which may hold one already.

    One of another form is refused with an OutputError, unless it is to be overwritten: then its
    files are gone after the body, and back where the body fails.
    """
    old = None if folder is None or not folder.is_dir() else standing_form(folder)
    if folder is None or old is None or not (differing := _differing(old, form())):
        yield
        return
    if not overwrite:
        message = f"a model of another form stands here: {differing}"
        hint = f"choose another folder, or write over it with {setting('overwrite')}"
        raise OutputError("other-form", message, place=str(folder), hint=hint)
    with _set_aside(folder):
        yield


def onnx_facts(metadata: Mapping[str, str], *, genai: bool) -> FolderFacts:
    """The form of an ONNX model, from what its file says."""
    facts = {key: metadata.get(f"rinsc.{key}", "") for key in ONNX_KEYS}
    return {"kind": "genai" if genai else "onnx", **facts}


def hf_facts(rounds: Rounds) -> FolderFacts:
    """The form of the folder for transformers that is asked for."""
    plain = dict(rounds) if isinstance(rounds, Mapping) else rounds
    return {"kind": "hf", "rounds": json.dumps(plain)}


def standing_form(folder: Path) -> FolderFacts | None:
    """What a folder holds; None where it is none of our models."""
    if (folder / "model.toml").exists():  # a run, which nothing writes over
        return None
    if (folder / MODEL_FILE).is_file():
        from rinsc.backends.onnx.run.benchmark import metadata_of

        try:
            metadata = metadata_of(folder / MODEL_FILE)
        except (OSError, ValueError):
            metadata = {}
        if Key.FORM not in metadata:
            return {"kind": f"{MODEL_FILE} that rinsc cannot read"}
        return onnx_facts(metadata, genai=(folder / "genai_config.json").exists())
    if not (folder / "modeling_rinsc.py").exists():
        return None
    try:
        config = read_json(folder / "config.json")
        rounds = config.get("rounds")
    except (OSError, ValueError, AttributeError):
        rounds = None
    return {"kind": "hf", "rounds": json.dumps(rounds)}


def _differing(old: FolderFacts, new: FolderFacts) -> str:
    """How the forms differ, in words; empty where they do not."""
    keys = [key for key in new if old.get(key) != new[key]]
    if "kind" in keys:
        return f"{old['kind']}, not {new['kind']}"
    return ", ".join(f"{key} {_shown(old.get(key))}, not {_shown(new[key])}" for key in keys)


def _shown(text: str | None) -> str:
    try:
        value = parse_json(text or "")
    except ValueError:
        return text or "none"
    if isinstance(value, dict):
        return ", ".join(f"{name}={count}" for name, count in value.items()) or "none"
    return "none" if value is None else text or "none"


@contextmanager
def _set_aside(folder: Path) -> Iterator[None]:
    """In the body the files of a model are not in the folder; they come back where it fails."""
    aside = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}.old")
    names = [*HF_FILES, *ONNX_FILES, *SHARED_FILES]
    there = [name for name in names if (folder / name).is_file()]
    try:
        aside.mkdir()
        for name in there:
            (folder / name).rename(aside / name)
    except OSError as error:
        _bring_back(aside, folder)
        raise cannot_write(folder, error) from error
    try:
        yield
    except BaseException:
        _bring_back(aside, folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _bring_back(aside: Path, folder: Path) -> None:
    for file in aside.iterdir() if aside.is_dir() else ():
        file.rename(folder / file.name)
    shutil.rmtree(aside, ignore_errors=True)
