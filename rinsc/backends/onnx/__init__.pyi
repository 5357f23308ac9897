"""The names of the ONNX backend, and where each is from."""

from rinsc.backends.onnx.form import Exit as Exit
from rinsc.backends.onnx.form import OnnxForm as OnnxForm
from rinsc.backends.onnx.form import RoundsForm as RoundsForm
from rinsc.backends.onnx.precision import Precision as Precision
from rinsc.backends.onnx.run.benchmark import counted_flops as counted_flops
from rinsc.backends.onnx.run.session import Session as Session
from rinsc.backends.onnx.run.towers_session import TowersSession as TowersSession
from rinsc.backends.onnx.write.export import graph_to_onnx as graph_to_onnx
from rinsc.backends.onnx.write.export import to_onnx as to_onnx
from rinsc.backends.onnx.write.file import OnnxModel as OnnxModel

__all__: list[str]
