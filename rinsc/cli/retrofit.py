"""``rinsc retrofit``: a pretrained model runs some of its layers again, with the weights it has."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from rinsc.cli.output import CommandProgress, print_json, print_line, print_result_table
from rinsc.cli.values import Listed, listed
from rinsc.errors import UsageError


def retrofit(
    model: Path,
    signature: str | None = None,
    /,
    *,
    output: Annotated[Path, Parameter(name=("--output", "-o"))],
    layers: Listed = (),
    blocks: Listed = (),
    drop: Listed = (),
    init: str | None = None,
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """Write a pretrained model as a recursive one, with the weights that it has.

    Parameters
    ----------
    model
        A model folder, as rinsc import writes it, or a run folder.
    signature
        What its stack becomes, such as 'P A^2 C'.
    output
        The folder to write.
    layers
        Which layers of the model each block has, both ends included: P=0..11,A=12..17,C=18..29. If
        not given, they are shared out over the blocks.
    blocks
        In place of a signature, layers that run twice, as RYS writes them: 12,16 are 12 to 15.
    drop
        Layers to leave out, such as 4..9.
    init
        What the layers of a block start as that has fewer than its range: slice, average or lower.
    overwrite
        Write over a model folder of another form, whose files are then removed.
    json
        Print what was written as JSON.
    """
    from rinsc.verbs.retrofit import retrofit as write

    done = write(
        *(model, output, signature),
        layers=_ranges(layers) or None,
        blocks=_pairs(blocks),
        drop=[_range(text, "--drop", "4..9") for text in listed(drop)],
        init=init,
        overwrite=overwrite,
        progress=CommandProgress(),
    )
    if json:
        print_json(done.facts())
        return
    for line in done.words:
        print_line(line)
    print_result_table(done.table)


def _ranges(texts: Sequence[str]) -> dict[str, tuple[int, int]]:
    ranges: dict[str, tuple[int, int]] = {}
    for text in listed(texts):
        name, equals, own = text.partition("=")
        if not equals or name in ranges:
            message = f"--layers does not take '{text[:60]}'"
            hint = "write --layers P=0..11,A=12..17, and each block once"
            raise UsageError("usage", message, hint=hint)
        ranges[name] = _range(own, "--layers", "A=12..17")
    return ranges


def _range(text: str, option: str, example: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,6})(?:\.\.(\d{1,6}))?", text)
    if match is None:
        message = f"{option} does not take '{text[:60]}'"
        raise UsageError("usage", message, hint=f"write {option} {example}, both ends included")
    return int(match[1]), int(match[2] or match[1])


def _pairs(texts: Sequence[str]) -> list[tuple[int, int]]:
    numbers = [number.strip() for text in texts for number in text.split(",")]
    if len(numbers) % 2 or not all(re.fullmatch(r"\d{1,6}", number) for number in numbers):
        message = f"--blocks does not take '{','.join(texts)[:60]}'"
        raise UsageError("usage", message, hint="write --blocks 12,16 for layers 12 to 15")
    return [(int(one), int(other)) for one, other in zip(numbers[::2], numbers[1::2], strict=True)]
