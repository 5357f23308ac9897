"""What compares two towers: SigLIP's logits of every pair, as a program over the operations."""

from __future__ import annotations

import math
from functools import lru_cache

from rinsc.ops import Activation, Add, Dots, Mul, Scalar, Sizes, UnitLength
from rinsc.ops.program import Builder, Program, Value, trace
from rinsc.spec import TowersSpec

START_SCALE, START_BIAS = math.log(10), -10.0  # (arXiv 2303.15343, algorithm 1)


def trace_join(spec: TowersSpec) -> Program | None:
    """The program of a model that compares pictures with texts; None of every other.

    Embeddings ``image`` (images, width) and ``text`` (texts, width) give ``logits`` (texts,
    images): products of unit vectors, times exp(logit_scale), plus logit_bias.
    """
    return None if spec.pairing is None else _trace_join(spec.pairing.width)


@lru_cache(maxsize=16)
def _trace_join(width: int) -> Program:
    def run(b: Builder, inputs: dict[str, Value]) -> dict[str, Value]:
        with b.part("join"):
            image, text = (b(UnitLength(), inputs[name]) for name in ("image", "text"))
            similarity = b(Dots(), text, image)
            scale = b(Activation("exp"), b(Scalar(START_SCALE), name="logit_scale"))
            bias = b(Scalar(START_BIAS), name="logit_bias")
            return {"logits": b(Add(), b(Mul(), similarity, scale), bias)}

    return trace({"image": ("images", width), "text": ("texts", width)}, run)


def join_shapes(spec: TowersSpec) -> dict[str, Sizes]:
    """The weights of the join by name, with their shapes; none of a model without."""
    program = trace_join(spec)
    return {} if program is None else {param.name: param.shape for param in program.params}
