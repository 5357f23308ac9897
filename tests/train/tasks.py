"""A multiple-choice task for lm-evaluation-harness, in files of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

TASK = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{context}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
target_delimiter: ""
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


class Question(NamedTuple):
    """A context, what may go on from it, and which of them does."""

    context: str
    choices: list[str]
    answer: int


def write_task(folder: Path, name: str, questions: Sequence[Question]) -> None:
    """NAME.yaml and NAME.jsonl in a new folder."""
    folder.mkdir()
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(each._asdict()) + "\n" for each in questions))
    (folder / f"{name}.yaml").write_text(TASK.format(name=name, data=data))
