"""An exported model: its bytes, its file or two, and its folder, written as a whole."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
from onnx_ir import TensorProtocol

from rinsc.backends.onnx.contract import DATA_FILE, MODEL_FILE, Key
from rinsc.backends.onnx.integrity import DIGEST_KEY, NO_DIGEST, data_files, left_data_files, signed
from rinsc.errors import LoweringError, OutputError
from rinsc.storage.files import atomic_path, check_folder, check_writable
from rinsc.storage.folders import replace_contents
from rinsc.text.tokenizer_files import (
    GENERATION_FILE,
    TEMPLATE_FILE,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
)

PROTOBUF_LIMIT_BYTES = 2**31 - 1
GRAPH_ALLOWANCE_BYTES = 2**26  # nodes and names, beside the weights
SMALL_BYTES = 1024  # stays in the graph: shapes are inferred from such constants
ALIGNMENT_BYTES = 4096  # a page, so that a runtime can map the weights


@dataclass(frozen=True)
class OnnxModel:
    """A model as onnx-ir holds it; its weights share memory with what they were taken from."""

    ir: ir.Model

    @property
    def metadata(self) -> dict[str, str]:
        return self.ir.metadata_props

    @property
    def weight_bytes(self) -> int:
        """Bytes of all initializers, each once."""
        return sum(tensor.nbytes for tensor in self._tensors().values())

    def to_bytes(self) -> bytes:
        """The whole model as one protobuf; raises `LoweringError` above 2 GB."""
        if self.weight_bytes > PROTOBUF_LIMIT_BYTES - GRAPH_ALLOWANCE_BYTES:
            message = f"{self.weight_bytes / 1e9:.1f} GB of weights do not fit into one protobuf"
            hint = "save the model to a file; its weights then go to a second one beside it"
            raise LoweringError("too-large", message, hint=hint)
        return _serialized(self.ir)

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickle holds the graph and the bytes of its weights."""
        weights = {name: tensor.tobytes() for name, tensor, _ in self._outside()}
        return _model_again, (self._with_external_data("weights", ""), weights)

    def check(self) -> None:
        """Run ONNX's own checker over the whole model, with its inference of types and shapes."""
        from onnx.checker import check_model

        check_model(self.to_bytes(), full_check=True)

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        external_data_over: int = PROTOBUF_LIMIT_BYTES - GRAPH_ALLOWANCE_BYTES,
    ) -> None:
        """Write the model to ``path`` in one step.

        With more than ``external_data_over`` bytes of weights, the large ones go to a second file
        beside it: ``<path>.data``, or ``<path>.<digest>.data`` where an old model at ``path`` uses
        that name. The old model is whole until the new one takes its name; its weights go then.
        Raises `OutputError`; what stood there before then survives.
        """
        target = Path(path)
        left = left_data_files(target)
        if self.weight_bytes <= external_data_over:
            with atomic_path(target) as unfinished:
                unfinished.write_bytes(self.to_bytes())
            _remove(left)
            return
        digest = self._data_digest()
        data = _free_name(target, digest)
        is_new = not data.exists()
        # The weights first, under a name that no model uses yet: the model's own renaming is the
        # one step by which the new pair takes the place of the old one.
        try:
            with atomic_path(target) as unfinished:
                unfinished.write_bytes(self._with_external_data(data.name, digest))
                with atomic_path(data) as data_part, data_part.open("wb") as stream:
                    for piece in self._data_pieces():
                        stream.write(piece)
        except BaseException:
            if is_new:
                _remove([data])
            raise
        _remove(left - {data})

    def _tensors(self) -> dict[str, TensorProtocol]:
        initializers = self.ir.graph.initializers.values()
        return {str(v.name): v.const_value for v in initializers if v.const_value is not None}

    def _outside(self) -> Iterator[tuple[str, TensorProtocol, int]]:
        """The tensors that go to a second file, with their offsets in it."""
        end = 0
        for name, tensor in self._tensors().items():
            if tensor.nbytes >= SMALL_BYTES:
                start = end + -end % ALIGNMENT_BYTES
                yield name, tensor, start
                end = start + tensor.nbytes

    def _data_pieces(self) -> Iterator[bytes]:
        """The second file, piece by piece."""
        end = 0
        for _, tensor, start in self._outside():
            yield b"\0" * (start - end)
            yield tensor.tobytes()
            end = start + tensor.nbytes

    def _data_digest(self) -> str:
        digest = hashlib.sha256()
        for piece in self._data_pieces():
            digest.update(piece)
        return digest.hexdigest()

    def _with_external_data(self, location: str, digest: str) -> bytes:
        """The protobuf that finds the large weights at ``location``."""
        initializers, facts = self.ir.graph.initializers, self.ir.metadata_props
        outside = list(self._outside())
        try:
            for name, tensor, start in outside:
                initializers[name].const_value = _external(tensor, location, start)
            facts[Key.DATA] = json.dumps([location, digest])
            return _serialized(self.ir)
        finally:
            facts.pop(Key.DATA, None)
            for name, tensor, _ in outside:
                initializers[name].const_value = tensor


def _free_name(target: Path, digest: str) -> Path:
    """Where the weights go: beside the model, and not where those of another are."""
    plain = target.with_name(f"{target.name}.data")
    return target.with_name(f"{target.name}.{digest[:8]}.data") if plain.exists() else plain


def _remove(files: Iterable[Path]) -> None:
    for path in files:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _model_again(graph: bytes, weights: Mapping[str, bytes]) -> OnnxModel:
    from onnx import ModelProto, TensorProto

    model = ir.from_proto(ModelProto.FromString(graph))
    for key in (Key.DATA, DIGEST_KEY):
        model.metadata_props.pop(key, None)
    for name, data in weights.items():
        value = model.graph.initializers[name]
        outside = value.const_value
        assert outside is not None
        dims = outside.shape.numpy()
        tensor = TensorProto(name=name, data_type=outside.dtype, dims=dims, raw_data=data)
        value.const_value = ir.TensorProtoTensor(tensor)
    return OnnxModel(model)


def _serialized(model: ir.Model) -> bytes:
    """The protobuf, with the digest of it in its metadata."""
    model.metadata_props[DIGEST_KEY] = NO_DIGEST
    try:
        return signed(ir.to_proto(model).SerializeToString())
    finally:
        del model.metadata_props[DIGEST_KEY]


def _external(tensor: TensorProtocol, location: str, offset: int) -> ir.ExternalTensor:
    return ir.ExternalTensor(
        location,
        offset,
        tensor.nbytes,
        tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=str(tensor.name),
    )


CONFIG_FILE = "genai_config.json"
# Beside those of every model: what an earlier one left here would be taken for the new one's.
OTHER_FILES = {CONFIG_FILE, TOKENIZER_CONFIG_FILE, TEMPLATE_FILE, GENERATION_FILE}
HELD_OUT_FILE = "heldout.txt"  # a sample of text that the model was not trained on


def check_model_folder(path: Path, names: Collection[str] = ()) -> None:
    """Raises OutputError where `write_model_folder` could not write files of these names.

    Nothing is changed.
    """
    _require_no_file(path)
    check_folder(path)
    if path.is_dir():
        for name in (MODEL_FILE, DATA_FILE, *names):
            check_writable(path / name)


def write_model_folder(model: OnnxModel, path: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write the model and further ``files`` by name; their paths, the model's first.

    The folder is made where it is missing, and takes the place of an old one in one step. Files of
    other names are left alone, but for those that an earlier model left: its weights, and those of
    `OTHER_FILES`. Raises OutputError, with the old folder as it was.
    """
    _require_no_file(path)
    names = (MODEL_FILE, DATA_FILE, *files)
    if TOKENIZER_FILE in files:
        model.metadata[Key.TOKENIZER] = hashlib.sha256(files[TOKENIZER_FILE]).hexdigest()

    def write(folder: Path) -> None:
        with ExitStack() as writing:  # every file is complete before the first takes its name
            for name, content in files.items():
                writing.enter_context(atomic_path(folder / name)).write_bytes(content)
            model.save(folder / MODEL_FILE, external_data_over=0)

    old = {file.name for file in left_data_files(path / MODEL_FILE)} | OTHER_FILES
    replace_contents(path, write, names, old - set(names))
    data = sorted(data_files(path / MODEL_FILE))
    return [path / MODEL_FILE, *data, *(path / name for name in files)]


def _require_no_file(path: Path) -> None:
    if os.path.lexists(path) and not path.is_dir():
        message = "this is a file, and a model folder is to stand here"
        hint = "choose another name, or one with a suffix, as model.onnx, for a file"
        raise OutputError("cannot-write", message, place=str(path), hint=hint)
