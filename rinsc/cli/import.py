"""``rinsc import``: a folder that transformers wrote, as a model folder of rinsc."""  # noqa: N999

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from rinsc.cli.output import CommandProgress, print_json


def import_(
    folder: Path,
    /,
    *,
    output: Annotated[Path, Parameter(name=("--output", "-o"))],
    signature: str | None = None,
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """Write a checkpoint of another library as a model folder, which every command takes.

    Parameters
    ----------
    folder
        What save_pretrained of transformers wrote: config.json, safetensors, tokenizer.
    output
        The folder to write.
    signature
        What its stack becomes, as A^2B: the same layers, some of them visited more often. If not
        given, each layer is visited once.
    overwrite
        Write over a model folder of another form, whose files are then removed.
    json
        Print what was written as JSON.
    """
    from rinsc.verbs.import_model import import_model

    progress = CommandProgress()
    done = import_model(folder, output, signature, overwrite=overwrite, progress=progress)
    if json:
        print_json(done.facts())
