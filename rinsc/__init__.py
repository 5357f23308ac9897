"""rinsc: a compiler for recursive-depth neural networks.

One line, ``"(A^3)B"``, becomes a block graph, exact costs, a PyTorch module and an ONNX model.
The public names stand in ``__init__.pyi``.
"""

from rinsc.extras import TO_TRAIN, face

# What must be installed besides the base; `rinsc.backends.onnx` says so for its own names.
_NEEDS = {
    "rinsc.backends.torch": ("torch", "safetensors"),
    "rinsc.evaluation.evaluate": TO_TRAIN,
    "rinsc.evaluation.scan": TO_TRAIN,
    "rinsc.study.laws": ("numpy", "scipy"),
    "rinsc.training.start": TO_TRAIN,
    "rinsc.verification": ("torch", "safetensors"),
}

__all__, __getattr__ = face(__name__, __file__, _NEEDS)


def __dir__() -> list[str]:
    return __all__
