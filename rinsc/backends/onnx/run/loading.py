"""Loading an exported model into ONNX Runtime, and telling why one does not load or run."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Mapping
from functools import wraps
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rinsc.backends.onnx import contract
from rinsc.backends.onnx.integrity import check_requests, compared, newer_model
from rinsc.backends.onnx.outline import FIRST_BYTE, Outline, read_outline
from rinsc.backends.onnx.run import providers
from rinsc.backends.onnx.run.buffers import TYPES
from rinsc.errors import CheckpointError, LoweringError, Problem, RinscError
from rinsc.graph import BlockGraph
from rinsc.layers import model_output
from rinsc.spec import ModelSpec, TowersSpec, spec_from_values
from rinsc.spec.reading import towers_from_values
from rinsc.storage.files import parse_json, parse_toml
from rinsc.syntax.parser import has_towers

if TYPE_CHECKING:
    from rinsc.backends.onnx.write.file import OnnxModel

# What the runtime computes while it loads, of whatever a file says.
FOLDING = ("ConstantFolding", "FuseFp16InitializerToFp32NodeTransformer")
FOLDED_BYTES = "optimization.constant_folding_max_output_size_in_bytes"
MOST_SIZED = 64  # values that may be folded

AGAIN = "export it again"
KINDS = {  # how files begin that are given in place of a model
    b"\x89PNG": "a PNG image",
    b"PK\x03\x04": "a zip archive, as PyTorch writes its checkpoints",
    b"GGUF": "a GGUF file",
    b"\x93NUMPY": "a NumPy array",
}

# What reading the metadata of a stranger can raise.
METADATA_ERRORS = (
    *(KeyError, ValueError, TypeError, AttributeError, OverflowError, RecursionError),
    RinscError,
)

# What the runtime says of a model that is newer than itself, in its several ways.
UNSUPPORTED = re.compile(
    r"Unsupported model IR version: \d+"
    r"|Opset \d+"
    r"|\S+ is not a registered function/op"
    r"|No Op registered for \S+"
    r"|Could not find an implementation for \S+"
)


def load(
    model: OnnxModel | str | os.PathLike[str], options: Any, provider: str | None, location: str
) -> tuple[Any, int]:
    """A session of the runtime on the model, its file, or the folder that holds `MODEL_FILE`, and
    how many bytes the model has.

    Raises `CheckpointError` for a file that does not load and `LoweringError` for a provider or a
    precision that the installed runtime lacks; warns (`ProviderWarning`) where CUDA is installed
    and does not load.
    """
    names, without_cuda = providers.providers_to_ask(provider)
    source: Path | bytes
    if isinstance(model, str | os.PathLike):
        path = model_file(model)
        outline = _checked_outline(path)
        source = path
        with compared(path, outline.metadata, outline):
            session = _session(path, outline, options, names, location)
            any_metadata(outline.metadata, location)  # whose error says more than that of a digest
    else:
        source = model.to_bytes()
        outline = read_outline(memoryview(source))
        session = _session(source, outline, options, names, location)
    if names[0] == providers.PROVIDERS["cuda"] and providers.provider_of(session) != "cuda":
        without_cuda = "the runtime gives it to a small model, and not to this model"
    if provider == "cuda" and without_cuda is not None:
        raise providers.not_loaded(without_cuda)
    if without_cuda is not None:
        message = f"running on the CPU, since CUDA does not load: {without_cuda}"
        warnings.warn(providers.ProviderWarning(f"{message} (see rinsc doctor)"), stacklevel=3)
    return session, _bytes_of(source, outline)


def _session(
    source: Path | bytes, outline: Outline, options: Any, names: Any, location: str
) -> Any:
    from onnxruntime import InferenceSession

    _limit_folding(options, outline, source)
    folds = outline.data_types & contract.FOLDED and outline.sized <= MOST_SIZED
    try:
        return InferenceSession(
            source,
            options,
            providers=names,
            enable_fallback=0,
            disabled_optimizers=() if folds else FOLDING,
        )
    except Exception as error:  # the runtime's errors have no base of their own
        raise _why(error, outline, location) from None


def _limit_folding(options: Any, outline: Outline, source: Path | bytes) -> None:
    """Weights in 16 or 8 bits are brought to floats once, where a device has no other kernels;
    nothing else needs folding. What is folded is no larger than they are then."""
    options.add_session_config_entry(FOLDED_BYTES, str(4 * _bytes_of(source, outline)))


def _bytes_of(source: Path | bytes, outline: Outline) -> int:
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    return size + sum(outline.external_bytes.values())


def place_of(model: OnnxModel | str | os.PathLike[str]) -> str:
    """What errors call the model: its file, where it has one. Raises `CheckpointError`."""
    return str(model_file(model)) if isinstance(model, str | os.PathLike) else "the model"


def model_file(path: str | os.PathLike[str]) -> Path:
    """The model's file at ``path``, which may be its folder; raises `CheckpointError`."""
    named = Path(path)
    try:
        str(named).encode()  # the runtime takes names that are text
        file = named / contract.MODEL_FILE if named.is_dir() else named
        if file.is_file():
            return file
    except OSError as error:
        raise _cannot_read(error, named) from None
    except UnicodeEncodeError:
        message, hint = "the file's name is not text", "give it a name in UTF-8"
        raise CheckpointError("cannot-read", message, place=str(named), hint=hint) from None
    if file != named:
        message, hint = f"the folder has no {contract.MODEL_FILE}", "name the folder that -o wrote"
    else:
        message, hint = "there is no such file", "export it first"
    raise CheckpointError("no-such-file", message, place=str(named), hint=hint)


def read_metadata(metadata: Mapping[str, str], location: str) -> tuple[ModelSpec, dict[str, int]]:
    """The spec and the rounds that a model was exported with; raises `CheckpointError`, also for
    several towers."""
    spec, rounds = any_metadata(metadata, location)
    if isinstance(spec, ModelSpec):
        return spec, rounds
    message = "a session runs a model of one tower, and this has several"
    hint = "open it with rinsc.TowersSession"
    raise CheckpointError("several-towers", message, place=location, hint=hint)


def any_metadata(
    metadata: Mapping[str, str], location: str
) -> tuple[ModelSpec | TowersSpec, dict[str, int]]:
    """`read_metadata` of one tower or of several."""
    try:
        values = parse_toml(metadata[contract.Key.SPEC])
        several = has_towers(values["signature"])
        spec = towers_from_values(values) if several else spec_from_values(values)
        rounds = {
            str(name): int(count)
            for name, count in parse_json(metadata[contract.Key.ROUNDS]).items()
        }
    except METADATA_ERRORS as error:
        newer = newer_model(metadata, location)
        if newer is not None:
            raise newer from None
        if isinstance(error, RinscError) and error.code == "unknown-kind":
            raise  # exported where a package was installed that is not here
        message = "the model does not say which spec it was exported from"
        hint = "run models that rinsc exported, of this or an earlier version, and whole"
        raise CheckpointError("foreign-model", message, place=location, hint=hint) from None
    return spec, rounds


def trained_record(metadata: Mapping[str, str]) -> dict[str, int]:
    """The rounds that the model's run was trained at, by repeat; empty without a record."""
    try:
        record = parse_json(metadata[contract.Key.TRAINED])
        return {str(name): int(count) for name, count in record.items()}
    except METADATA_ERRORS:
        return {}


def _checked_outline(path: Path) -> Outline:
    """The outline of a file whose weights are there, and which asks for nothing elsewhere."""
    try:
        data = _mapped(path)
    except OSError as refused:
        raise _cannot_read(refused, path) from None
    location = str(path)
    if not data:
        message = "the model's file is empty"
        raise CheckpointError("damaged-model", message, place=location, hint=AGAIN)
    try:
        outline = read_outline(data)
    except ValueError:
        raise _not_whole(bytes(data[:512]), location) from None
    check_requests(outline, path)
    missing = _data_problem(outline, path)
    if missing is not None:
        raise CheckpointError.of(missing)
    return outline


def _why(error: Exception, outline: Outline, location: str) -> RinscError:
    """What is wrong with a model that the runtime refuses with ``error``."""
    reason = str(error)
    unsupported = UNSUPPORTED.search(reason)
    if unsupported is not None:
        return _unsupported(unsupported.group(), outline, location)
    shown = reason.partition("\n")[0][:200]
    message = f"ONNX Runtime cannot load the model: {shown}"
    hint = "the file is damaged or not a model of rinsc; export it again"
    return CheckpointError("damaged-model", message, place=location, hint=hint)


def _mapped(path: Path) -> memoryview:
    """The file's bytes without reading them: it may be any file, of any size."""
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return memoryview(b"")
        return memoryview(mmap(file.fileno(), 0, access=ACCESS_READ))


def _cannot_read(error: OSError, path: Path) -> CheckpointError:
    message = f"cannot read the model: {(error.strerror or type(error).__name__).lower()}"
    hint = "check the name and the permissions"
    return CheckpointError("cannot-read", message, place=str(path), hint=hint)


def _not_whole(start: bytes, location: str) -> CheckpointError:
    """The error for a file, of which this is the start, that is no protobuf or a part of one."""
    if start.startswith(FIRST_BYTE):
        message = "the model is cut short or damaged"
        return CheckpointError("damaged-model", message, place=location, hint=AGAIN)
    message = f"this is no ONNX model{_kind(start)}"
    hint = f"name a {contract.MODEL_FILE} that rinsc exported, or its folder"
    return CheckpointError("foreign-model", message, place=location, hint=hint)


def _kind(start: bytes) -> str:
    """What else a file is, by how it starts, as the end of a sentence."""
    kind = next((kind for magic, kind in KINDS.items() if start.startswith(magic)), None)
    if kind is None and start[8:9] == b"{":
        kind = "a safetensors file"
    if kind is None and start.isascii() and "".join(start.decode().split()).isprintable():
        kind = "text"
    return "" if kind is None else f" but {kind}"


def _data_problem(outline: Outline, path: Path) -> Problem | None:
    """What is wrong with the files of weights beside the model."""
    for name, needed in outline.external_bytes.items():
        file = path.parent / name
        hint = f"{path.name} and {name} belong together: copy both, or export the model again"
        try:
            size = file.stat().st_size if file.is_file() else None
        except (OSError, ValueError):
            size = None
        if size is None:
            message = f"the model's weights are missing: there is no file {name}"
            return Problem("missing-data", message, place=str(file), hint=hint)
        if size < needed:
            message = f"the model's weights are cut short: {size} bytes of at least {needed}"
            return Problem("damaged-data", message, place=str(file), hint=hint)
    return None


def _unsupported(reason: str, outline: Outline, location: str) -> RinscError:
    """The error for a model whose operators, or their precision, the runtime does not have."""
    import onnxruntime

    runtime = f"onnxruntime {onnxruntime.__version__}"
    if reason.startswith("Could not find") and contract.BFLOAT16 in outline.data_types:
        operator = reason.rpartition(" ")[2]
        message = f"{runtime} cannot run {operator} in bf16 on this provider"
        hint = "export the model with precision fp32 or fp16, or run it with CUDA"
        return LoweringError("precision-not-supported", message, place=location, hint=hint)
    opsets = ", ".join(f"{name or 'ai.onnx'} {number}" for name, number in outline.opsets.items())
    message = f"{runtime} is too old for the model's operators ({opsets}): {reason}"
    hint = "pip install --upgrade onnxruntime (onnxruntime-gpu), or export with portable operators"
    return CheckpointError("operator-not-supported", message, place=location, hint=hint)


RUNS = ("run", "run_with_iobinding", "run_with_ort_values")


class ToldSession:
    """A session that raises `LoweringError` where a model fails while it runs."""

    def __init__(self, session: Any, location: str) -> None:
        self._session = session
        for name in RUNS:
            setattr(self, name, _with_our_errors(getattr(session, name), location))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


def _with_our_errors(run: Callable[..., Any], location: str) -> Callable[..., Any]:
    @wraps(run)
    def run_or_explain(*args: Any) -> Any:
        try:
            return run(*args)
        except (RuntimeError, ValueError, MemoryError) as error:
            raise _failed(error, location) from None
        except Exception as error:  # the runtime's errors have no base of their own
            if type(error).__module__.startswith("onnxruntime"):
                raise _failed(error, location) from None
            raise

    return run_or_explain


def _failed(error: Exception, location: str) -> LoweringError:
    message = f"ONNX Runtime cannot run the model: {str(error).partition(chr(10))[0]:.200}"
    hint = "give it less at once, or export the model again"
    return LoweringError("run-failed", message, place=location, hint=hint)


def check_interface(session: Any, graph: BlockGraph, size: int, location: str) -> None:
    """Raises `CheckpointError` where the logits or the cache are not those of the spec, or so wide
    that a model of ``size`` bytes cannot make them. Buffers are as large as they say."""
    most = 2 * size  # numbers of four bits
    loops = {contract.rounds_of(loop.name) for loop in graph.dials()}
    outputs = {value.name: value.shape for value in session.get_outputs()}
    past = [value for value in session.get_inputs() if value.name.startswith(contract.PAST)]
    output, numbers = model_output(graph.spec)
    fits = outputs.get(output, [None])[-1] == numbers <= most
    for value in past:
        *rounds, batch, heads, length, width = [None] * 4 + list(value.shape)
        rounds = [name for name in rounds if name is not None]
        fits = fits and (batch, length) == ("batch", "past") and len(rounds) <= len(loops)
        fits = fits and set(rounds) <= loops and type(heads) is type(width) is int
        fits = fits and heads * width <= most and value.type in TYPES
        fits = fits and value.type == past[0].type
        fits = fits and contract.present_of(value.name) in outputs
    if not fits:
        message = "the model's logits or cache are not those of its spec"
        hint = "run models that rinsc exported, of this or an earlier version, and whole"
        raise CheckpointError("foreign-model", message, place=location, hint=hint)
