"""What a forward pass of an exported model over pictures costs, at each number of rounds."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from rinsc.backends.onnx.contract import Key
from rinsc.cost import forward_flops
from rinsc.errors import UsageError, plural, setting
from rinsc.graph import rounds_in_words
from rinsc.scalars import html_table, rounded_bytes, rounded_flops
from rinsc.verbs.reports import FORMS_IN_WORDS, shown_digits, threads_in_words

if TYPE_CHECKING:
    from rinsc.backends.onnx import Session
    from rinsc.progress import Progress

PASSES = 200  # timed at each number of rounds, where they take no longer than SECONDS in all
HEADS = ("rounds", "pictures/s", "patches/s", "ms/pass", "p10", "memory", "FLOP/picture")


@dataclass(frozen=True)
class PicturesRow:
    """Passes over ``batch`` pictures of ``patches`` patches at some rounds; times are medians."""

    rounds: Mapping[str, int]
    batch: int
    patches: int
    pass_ms: float
    pass_ms_p10: float
    passes: int
    memory_bytes: int | None
    flops_per_picture: int

    @property
    def pictures_per_second(self) -> float:
        return 1e3 * self.batch / self.pass_ms

    def facts(self) -> dict[str, object]:
        """The row as plain data."""
        return {
            "rounds": dict(self.rounds),
            "pictures_per_second": self.pictures_per_second,
            "patches_per_second": self.pictures_per_second * self.patches,
            "pass_ms_median": self.pass_ms,
            "pass_ms_p10": self.pass_ms_p10,
            "memory_bytes": self.memory_bytes,
            "flops_per_picture": self.flops_per_picture,
            "passes": self.passes,
        }

    @property
    def cells(self) -> list[str]:
        """The row as text, a cell for each of `HEADS`; what is unknown is empty."""
        return [
            rounds_in_words(self.rounds) or "-",
            shown_digits(self.pictures_per_second),
            shown_digits(self.pictures_per_second * self.patches),
            shown_digits(self.pass_ms),
            shown_digits(self.pass_ms_p10),
            "" if self.memory_bytes is None else rounded_bytes(self.memory_bytes),
            rounded_flops(self.flops_per_picture).removesuffix("FLOP").rstrip(),
        ]


@dataclass(frozen=True)
class PicturesReport:
    """What `bench` measured of a model that takes pictures: passes at each number of rounds."""

    rows: tuple[PicturesRow, ...]
    signature: str
    written: Mapping[str, int]
    provider: str
    threads: int | None
    precision: str
    form: str
    batch: int
    patches: int

    @property
    def table(self) -> tuple[list[str], list[list[str]]]:
        """Heads and rows as text."""
        return list(HEADS), [row.cells for row in self.rows]

    def facts(self) -> dict[str, object]:
        """The report as plain data."""
        return {
            "signature": self.signature,
            "form": self.form,
            "written_rounds": dict(self.written),
            "provider": self.provider,
            "threads": self.threads,
            "precision": self.precision,
            "batch": self.batch,
            "patches": self.patches,
            "rows": [row.facts() for row in self.rows],
        }

    @property
    def conditions(self) -> str:
        """Where and how it ran, in one line."""
        conditions = [
            f"ONNX Runtime on {self.provider}",
            threads_in_words(self.threads),
            self.precision,
            FORMS_IN_WORDS[self.form] if self.written else "no repeat",
            f"{plural(self.batch, 'picture')} a pass, of {self.patches} patches",
            f"n = {min(row.passes for row in self.rows)} passes",
        ]
        return " · ".join(conditions)

    def __repr__(self) -> str:
        return f"<PicturesReport of {self.signature}: {plural(len(self.rows), 'row')}>"

    def _repr_html_(self) -> str:
        return f"<div>{html_table(*self.table)}<p>{escape(self.conditions)}</p></div>"


def bench_pictures(
    session: Session,
    metadata: Mapping[str, str],
    rounds: Sequence[Mapping[str, int]],
    batch: int,
    progress: Progress,
    *,
    threads: int | None,
    memory_before: int | None,
) -> PicturesReport:
    """Time passes over ``batch`` random pictures at each of ``rounds``, which take turns.

    Pictures are as large as the context. A picture costs equally much whatever it shows.
    """
    import numpy as np

    from rinsc.backends.onnx.run.benchmark import SECONDS, own_memory_bytes

    graph, patches = session.graph, session.spec.context
    width = session.spec.settings_of(session.spec.kind).patch_width
    inputs = np.random.default_rng(0).standard_normal((batch, patches, width), dtype=np.float32)
    times: list[list[float]] = [[] for _ in rounds]
    memory: list[int | None] = []
    with progress.task("measuring the speed") as observe:
        for counts in rounds:
            session.logits(inputs, counts)  # the first pass of each allocates
            now = own_memory_bytes()
            is_known = now is not None and memory_before is not None
            memory.append(max(now - memory_before, 0) if is_known else None)  # type: ignore[operator]
        start = time.perf_counter()
        for number in range(PASSES):
            for index in range(len(rounds)) if number % 2 == 0 else reversed(range(len(rounds))):
                begun = time.perf_counter()
                session.logits(inputs, rounds[index])
                times[index].append((time.perf_counter() - begun) * 1e3)
            spent = time.perf_counter() - start
            observe(min(1.0, max(spent / SECONDS, (number + 1) / PASSES)))
            if spent > SECONDS:
                break
    rows = [
        PicturesRow(
            *(counts, batch, patches),
            pass_ms=float(np.median(passes)),
            pass_ms_p10=float(np.percentile(passes, 10)),
            passes=len(passes),
            memory_bytes=held,
            flops_per_picture=forward_flops(graph, patches, rounds=counts).total,
        )
        for counts, passes, held in zip(rounds, times, memory, strict=True)
    ]
    return PicturesReport(
        tuple(rows),
        signature=session.spec.text,
        written=session.rounds,
        provider=session.provider,
        threads=threads,
        precision=metadata[Key.PRECISION],
        form=metadata[Key.FORM],
        batch=batch,
        patches=patches,
    )


def check_pictures_settings(batch: int | None, **of_text: object) -> int:
    """How many pictures a pass has; raises UsageError for settings ``of_text``, and for none."""
    refused = [setting(name) for name, value in of_text.items() if value is not None]
    if refused:
        message = f"the model takes pictures, and {' and '.join(refused)} "
        message += f"{'is' if len(refused) == 1 else 'are'} about text"
        raise UsageError("usage", message, hint="leave out what is about text")
    return 1 if batch is None else batch
