"""A session of the runtime whose inputs are those of its spec, and whose failures are told."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from rinsc.backends.onnx.contract import PAST, PRESENT
from rinsc.backends.onnx.run.buffers import TYPES
from rinsc.errors import CheckpointError, LoweringError
from rinsc.graph import BlockGraph

RUNS = ("run", "run_with_iobinding", "run_with_ort_values")


class ToldSession:
    """A session that raises `LoweringError` where a model fails while it runs."""

    def __init__(self, session: Any, place: str) -> None:
        self._session = session
        for name in RUNS:
            setattr(self, name, _told(getattr(session, name), place))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


def _told(run: Callable[..., Any], place: str) -> Callable[..., Any]:
    @wraps(run)
    def told(*args: Any) -> Any:
        try:
            return run(*args)
        except (RuntimeError, ValueError, MemoryError) as error:
            raise _failed(error, place) from None
        except Exception as error:  # the runtime's errors have no base of their own
            if type(error).__module__.startswith("onnxruntime"):
                raise _failed(error, place) from None
            raise

    return told


def _failed(error: Exception, place: str) -> LoweringError:
    message = f"ONNX Runtime cannot run the model: {str(error).partition(chr(10))[0]:.200}"
    hint = "give it less at once, or export the model again"
    return LoweringError("run-failed", message, place=place, hint=hint)


def check_interface(session: Any, graph: BlockGraph, size: int, place: str) -> None:
    """Raises `CheckpointError` where the logits or the cache are not those of the spec, or so wide
    that a model of ``size`` bytes cannot make them. Buffers are as large as they say."""
    most = 2 * size  # numbers of four bits
    loops = {f"rounds_{loop.name}" for loop in graph.dials()}
    outputs = {each.name: each.shape for each in session.get_outputs()}
    past = [each for each in session.get_inputs() if each.name.startswith(PAST)]
    fits = outputs.get("logits", [None])[-1] == graph.spec.vocab_size <= most
    for each in past:
        *rounds, batch, heads, length, width = [None] * 4 + list(each.shape)
        rounds = [name for name in rounds if name is not None]
        fits = fits and (batch, length) == ("batch", "past") and len(rounds) <= len(loops)
        fits = fits and set(rounds) <= loops and type(heads) is type(width) is int
        fits = fits and heads * width <= most and each.type in TYPES
        fits = fits and each.type == past[0].type
        fits = fits and PRESENT + each.name.removeprefix(PAST) in outputs
    if not fits:
        message = "the model's logits or cache are not those of its spec"
        hint = "run models that rinsc exported, of this or an earlier version, and whole"
        raise CheckpointError("foreign-model", message, place=place, hint=hint)
