"""Speed, memory and FLOPs of an exported model, at one number of rounds after another."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from rinsc.backends.onnx.precision import EMBEDDING, Precision
from rinsc.backends.onnx.run.session import Session
from rinsc.cost import forward_flops
from rinsc.formats import FORMATS
from rinsc.graph import BlockGraph, Rounds
from rinsc.storage.files import parse_json
from rinsc.storage.folders import temporary_folder

if TYPE_CHECKING:
    from rinsc.backends.onnx.write.file import OnnxModel

Observer: TypeAlias = Callable[[float], None]  # told which part of the work is done

SECONDS = 25.0  # spent where generations take longer than that
GENERATIONS = 17  # of each number of rounds; the first one warms up
WARM_TOKENS = 4
SCALE_BYTES = 4


@dataclass(frozen=True)
class Speed:
    """One sequence generated greedily, over ``decoded_tokens`` of ``generations``: wall time.

    ``first_token_ms`` runs the prompt and chooses, ``decode_ms`` and ``decode_ms_p10`` add one
    token: medians, and the 10th percentile. ``memory_bytes`` is what the process holds more than
    before it loaded the model, in memory of its own: packed weights, the cache, and whatever else
    the runtime allocates, without the pages of the model's files; None where the system does not
    tell.
    """

    decode_ms: float
    decode_ms_p10: float
    first_token_ms: float
    memory_bytes: int | None
    decoded_tokens: int
    generations: int

    @property
    def tokens_per_second(self) -> float:
        return 1e3 / self.decode_ms


@dataclass(frozen=True)
class TokenCost:
    """What one token costs: FLOPs of its matrix products, and the bytes that they read.

    ``touched_bytes`` are those of matrices, as often as they are used, and of the cache.
    """

    matmul_flops: int
    touched_bytes: int


def measure_speed(
    session: Session,
    rounds: Sequence[Rounds],
    prompt_tokens: int,
    new_tokens: int,
    *,
    memory_before: int | None = None,
    seconds: float = SECONDS,
    observe: Observer = lambda done: None,
) -> tuple[Speed, ...]:
    """The speed of a session at each of ``rounds``, which take turns of one generation each.

    A generation runs ``prompt_tokens`` ids and adds ``new_tokens`` behind them; ids are random,
    and always the same. ``memory_before`` is `own_memory_bytes` before the session was made. Time
    is up after ``seconds``, but for the first generation of each, which then counts. Fewest rounds
    come first in ``rounds``, or memory that others have used counts as theirs.
    """
    ids = np.random.default_rng(0).integers(
        0, session.spec.vocab_size, prompt_tokens + new_tokens, dtype=np.int64
    )
    tasks = [_Task(session, counts, ids, prompt_tokens) for counts in rounds]
    start = time.perf_counter()
    for number in range(GENERATIONS):
        begun = time.perf_counter()
        for done, task in enumerate(tasks if number % 2 == 0 else reversed(tasks)):
            task.generate(seconds / len(tasks), memory_before if number == 0 else None)
            spent = (time.perf_counter() - start) / seconds
            observe(min(1.0, max(spent, (number + (done + 1) / len(tasks)) / GENERATIONS)))
        now = time.perf_counter()
        if now + (now - begun) > start + seconds:  # another turn of all would take as long
            break
    return tuple(task.speed() for task in tasks)


def token_cost(
    graph: BlockGraph, rounds: Rounds, seen_tokens: int, precision: Precision, *, cached: bool
) -> TokenCost:
    """What a token costs that sees ``seen_tokens``, itself among them.

    Without a cache they are all run for it. FLOPs are those of `rinsc.cost`: a pass over seq tokens
    has products with matrices, in proportion to seq, and attention, to its square; so two short
    passes tell them apart. One multiply-add of a token reads one element of a matrix, or of the
    keys and values, which several heads may share.
    """
    one, two = (forward_flops(graph, seq, rounds=rounds) for seq in (1, 2))
    bytes_read = 0.0
    for owner, flops in one.by_block.items():
        with_matrices = (4 * flops - two.by_block[owner]) // 2
        tied = graph.spec.tied_embedding and owner not in graph.blocks
        stored = precision.matrix_format(EMBEDDING if tied else owner)
        bytes_read += with_matrices / 2 * _bytes_per_weight(precision, stored)
    if cached:
        with_cache = (two.total - 2 * one.total) // 2
        spec = graph.spec
        elements = with_cache / 2 * spec.kv_heads / spec.heads * seen_tokens
        bytes_read += elements * FORMATS[precision.float_type].bytes
    whole = forward_flops(graph, seen_tokens, rounds=rounds).total
    return TokenCost(whole // seen_tokens if cached else whole, round(bytes_read))


def own_memory_bytes() -> int | None:
    """Memory of this process that belongs to no file; None where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        kib = next(line.split()[1] for line in lines if line.startswith("RssAnon:"))
    except (OSError, StopIteration):
        return None
    return int(kib) * 1024


@dataclass
class _Task:
    """A session at some rounds, and what was measured of it so far, the last generation apart."""

    session: Session
    rounds: Rounds
    ids: npt.NDArray[np.int64]
    prompt_tokens: int
    first_ms: list[float] = field(default_factory=list)
    decode_ms: list[list[float]] = field(default_factory=list)
    memory_bytes: int | None = None

    def generate(self, seconds: float, memory_before: int | None) -> None:
        """One generation, cut short after so many seconds; with a number, memory is read too."""
        if not self.decode_ms:
            self._run(self.prompt_tokens + WARM_TOKENS, seconds)
        times = self._run(len(self.ids), seconds, memory_before)
        self.first_ms.append(times[0])
        self.decode_ms.append(times[1:])

    def _run(self, length: int, seconds: float, memory_before: int | None = None) -> list[float]:
        """Milliseconds until the first token, and of each further one."""
        times = []
        end = time.perf_counter() + seconds
        begun = time.perf_counter()
        add = self._begin()
        times.append(_ms_since(begun))
        for position in range(self.prompt_tokens, min(length, len(self.ids))):
            begun = time.perf_counter()
            add(position)
            times.append(_ms_since(begun))
            if begun > end:
                break
        now = own_memory_bytes() if memory_before is not None else None
        if now is not None and memory_before is not None:
            self.memory_bytes = max(now - memory_before, 0)
        return times

    def _begin(self) -> Callable[[int], object]:
        """Run the prompt; what adds the id at a place and chooses the next, as generation does."""
        if not self.session.has_cache:
            return self._whole_passes()
        logits, past = self.session.step(self.ids[None, : self.prompt_tokens], rounds=self.rounds)
        logits[0, -1].argmax()
        decoding = self.session.decoding(past)
        return lambda position: decoding(self.ids[position : position + 1]).argmax()

    def _whole_passes(self) -> Callable[[int], object]:
        def run(position: int) -> object:
            return self.session.logits(self.ids[None, : position + 1], self.rounds)[0, -1].argmax()

        run(self.prompt_tokens - 1)
        return run

    def speed(self) -> Speed:
        """Over all generations but the first, where there are others."""
        counted = slice(1 if len(self.decode_ms) > 1 else 0, None)
        times = [ms for generation in self.decode_ms[counted] for ms in generation]
        return Speed(
            decode_ms=float(np.median(times)),
            decode_ms_p10=float(np.percentile(times, 10)),
            first_token_ms=float(np.median(self.first_ms[counted])),
            memory_bytes=self.memory_bytes,
            decoded_tokens=len(times),
            generations=len(self.decode_ms[counted]),
        )


def _ms_since(begun: float) -> float:
    return (time.perf_counter() - begun) * 1e3


def _bytes_per_weight(precision: Precision, stored: str) -> float:
    """Of a matrix in this format; scales and zero points included."""
    row = FORMATS[stored]
    if row.arithmetic == "cast":  # a session has brought it to floats before the first token
        return FORMATS[precision.float_type].bytes
    if row.arithmetic != "weights":
        return row.bytes
    zero_point = row.bytes if precision.has_zero_points(row.bits) else 0
    return row.bytes + (SCALE_BYTES + zero_point) / precision.block_size


def metadata_of(file: Path) -> Mapping[str, str]:
    """What a model that a session has loaded says about itself."""
    from mmap import ACCESS_READ, mmap

    from rinsc.backends.onnx.integrity import DIGEST_KEY
    from rinsc.backends.onnx.outline import read_outline

    with file.open("rb") as stream:
        outline = read_outline(memoryview(mmap(stream.fileno(), 0, access=ACCESS_READ)))
    return {key: value for key, value in outline.metadata.items() if key != DIGEST_KEY}


Shapes: TypeAlias = list[list[int]]


def counted_flops(
    model: OnnxModel | str | os.PathLike[str], input_ids: npt.ArrayLike, rounds: Rounds = None
) -> int:
    """FLOPs of the matrix products of one forward pass, 2 a multiply-add, loops included.

    Every pair of positions counts, masked or not. Raises what `Session` raises.
    """
    with temporary_folder() as folder:
        session = Session(model, threads=1, profile_folder=folder)
        session.logits(input_ids, rounds)
        return sum(executed_flops(session.finish_profile()))


def executed_flops(profile: Path) -> Iterator[int]:
    """FLOPs of each kernel in a profile that multiplies matrices, in order of execution."""
    for event in parse_json(profile.read_bytes()):
        arguments = event.get("args", {})
        count = _FLOPS.get(arguments.get("op_name", ""))
        if count is not None and event["name"].endswith("_kernel_time"):
            yield count(_shapes(arguments, "input"), _shapes(arguments, "output"))


def _shapes(arguments: Mapping[str, Any], side: str) -> Shapes:
    return [next(iter(shape.values())) for shape in arguments[f"{side}_type_shape"]]


def _matmul_flops(inputs: Shapes, outputs: Shapes) -> int:
    """From the output: a weight that was packed at load has no shape among the inputs."""
    return 2 * math.prod(outputs[0]) * inputs[0][-1]


def _attention_flops(inputs: Shapes, outputs: Shapes) -> int:
    """Scores and their mix, each batch · heads · seq² · head_dim multiply-adds."""
    seq = inputs[1][-2]
    return 2 * math.prod(inputs[0]) * seq + 2 * math.prod(outputs[0]) * seq


_FLOPS: Mapping[str, Callable[[Shapes, Shapes], int]] = {
    "MatMul": _matmul_flops,
    "Gemm": _matmul_flops,
    "FusedMatMul": _matmul_flops,
    "FusedGemm": _matmul_flops,
    "Attention": _attention_flops,
}
