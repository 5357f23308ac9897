"""An exported model: its bytes, and its file or two."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import onnx_ir as ir
from onnx_ir import TensorProtocol

from rinsc.backends.onnx.loading import DATA_KEY
from rinsc.digests import sampled_digest
from rinsc.errors import LoweringError, Problem
from rinsc.files import atomic_path

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
            raise LoweringError(Problem("too-large", message, hint=hint))
        return _serialized(self.ir)

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

        With more than ``external_data_over`` bytes of weights, the large ones go to
        ``<path>.data`` beside it, and both files are complete before either takes its name.
        Raises `OutputError`; what stood there before then survives.
        """
        target = Path(path)
        if self.weight_bytes <= external_data_over:
            with atomic_path(target) as part:
                part.write_bytes(self.to_bytes())
            return
        data = target.with_name(f"{target.name}.data")
        with (
            atomic_path(target) as part,
            atomic_path(data) as data_part,
            data_part.open("wb") as stream,
        ):
            part.write_bytes(self._with_external_data(stream, data.name))

    def _tensors(self) -> dict[str, TensorProtocol]:
        initializers = self.ir.graph.initializers.values()
        return {str(v.name): v.const_value for v in initializers if v.const_value is not None}

    def _with_external_data(self, stream: BinaryIO, location: str) -> bytes:
        """Write the weights to ``stream``; the protobuf that finds them at ``location``."""
        tensors = self._tensors()
        facts = self.ir.metadata_props
        try:
            for name, tensor in tensors.items():
                if tensor.nbytes < SMALL_BYTES:
                    continue
                stream.write(b"\0" * (-stream.tell() % ALIGNMENT_BYTES))
                outside = _external(tensor, location, stream.tell())
                stream.write(tensor.tobytes())
                self.ir.graph.initializers[name].const_value = outside
            stream.flush()
            facts[DATA_KEY] = json.dumps([location, sampled_digest(Path(stream.name))])
            return _serialized(self.ir)
        finally:
            facts.pop(DATA_KEY, None)
            for name, tensor in tensors.items():
                self.ir.graph.initializers[name].const_value = tensor


def _serialized(model: ir.Model) -> bytes:
    data: bytes = ir.to_proto(model).SerializeToString()
    return data


def _external(tensor: TensorProtocol, location: str, offset: int) -> ir.ExternalTensor:
    return ir.ExternalTensor(
        location,
        offset,
        tensor.nbytes,
        tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=str(tensor.name),
    )
