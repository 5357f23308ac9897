"""The ONNX backend: a block graph as a model of standard operators, and the session that runs it.

Names load on first use: exporting needs onnx-ir alone, running needs onnxruntime alone.
"""

from rinsc.extras import face

_NEEDS = {
    "rinsc.backends.onnx.write.export": ("numpy", "onnx_ir"),
    "rinsc.backends.onnx.write.file": ("onnx_ir",),
    "rinsc.backends.onnx.run.benchmark": ("numpy",),
    "rinsc.backends.onnx.run.session": ("numpy",),
    "rinsc.backends.onnx.run.towers_session": ("numpy",),
}

__all__, __getattr__ = face(__name__, __file__, _NEEDS)
