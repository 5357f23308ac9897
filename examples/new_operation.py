"""Add an operation to rinsc: `Softcap`, c · tanh(x / c), which Gemma 2 puts behind its logits.

An operation is a class in `rinsc/ops/`, and an entry in the tables of PyTorch and of ONNX.
Operations are a closed set, so a new one is a change of rinsc. This script makes the change
in a copy of the package, and lets the copy compare every form of a model that uses it.

    $ python new_operation.py
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import rinsc

EDITS = {
    "rinsc/ops/elements.py": '''

@dataclass(frozen=True)
class Softcap(Op, reach="own", needs="nothing", parts="any", kept="output"):
    """Numbers bent into (-limit, limit)."""

    limit: float
''',
    "rinsc/ops/__init__.py": """
from rinsc.ops.elements import Softcap

__all__ += ["Softcap"]
""",
    "rinsc/backends/torch/ops.py": """

def _softcap(node: Node, args: list[str]) -> str:
    limit = repr(node.op.limit)
    return f"{limit} * torch.tanh({args[0]} / {limit})"


TORCH_OPS[ops.Softcap] = TorchOp(_softcap, loose=True, tight=True)
""",
    "rinsc/backends/onnx/write/ops.py": """

def _softcap(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    limit = op.real_constant(f"limit/{at.op.limit!r}", np.array(at.op.limit))
    return op.Mul(op.Tanh(op.Div(inputs[0], limit)), limit)


ONNX_OPS[ops.Softcap] = _softcap
""",
}

USE = """
import rinsc
from rinsc.layers import LayerKind, layer_kind
from rinsc.ops import Softcap

llama = layer_kind("llama")


def head(b, x, spec):
    return b(Softcap(30.0), llama.head(b, x, spec))


rinsc.register_kind("capped", LayerKind(llama.embed, llama.layer, head, llama.sides))
spec = rinsc.model_spec("(A^3)B", preset="tiny", layers=2, kind="capped")
model = rinsc.to_torch(spec)
print(model.source.rstrip().splitlines()[-1].strip())
rows = rinsc.verify(spec)
print(f"{sum(row.passed for row in rows)} of {len(rows)} comparisons hold")
"""

here = Path(rinsc.__file__).parents[1]
with tempfile.TemporaryDirectory() as folder:
    copy = Path(folder)
    for name in ("rinsc", "grammar", "zoo"):
        shutil.copytree(here / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file, text in EDITS.items():
        with (copy / file).open("a", encoding="utf-8") as stream:
            stream.write(text)
    environment = {**os.environ, "PYTHONPATH": folder}
    subprocess.run([sys.executable, "-c", USE], check=True, cwd=folder, env=environment)
