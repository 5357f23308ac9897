"""Tasks of lm-evaluation-harness on a trained model, against a plain loop over likelihoods."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import tokenizers
import torch
from tokenizers import models, pre_tokenizers

from rinsc.backends.hf import RinscForCausalLM
from rinsc.data.corpora import load_corpus
from rinsc.data.tokenizer import BytePairTokenizer, train_tokenizer
from rinsc.errors import DataError, UsageError
from rinsc.evaluation.harness import _prefix_token, find_tasks, score_tasks, trained_model
from rinsc.training.finished import FinishedRun
from tests.train.finished_runs import Runs, recursive, runs
from tests.train.tasks import Question, write_task

__all__ = ["recursive", "runs"]

pytest.importorskip("lm_eval")

CPU = torch.device("cpu")
CONTEXT = 31


def test_a_tokenizer_with_nothing_to_put_before_a_text() -> None:
    words = tokenizers.Tokenizer(models.WordLevel({"lark": 0, "[UNK]": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(DataError) as caught:
        _prefix_token(BytePairTokenizer(words))
    assert caught.value.code == "no-end-token"


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    """Which of four lines goes on: lines of a play, short enough for the context."""
    text = load_corpus("plays").train[17].text
    lines = [line for line in text.splitlines() if 12 < len(line) < 21]
    draw = random.Random(3)
    made = []
    for place in draw.sample(range(len(lines) - 1), 40):
        answer = draw.randrange(4)
        choices = ["\n" + line for line in draw.sample(lines, 4)]
        choices[answer] = "\n" + lines[place + 1]
        made.append(Question(lines[place], choices, answer))
    return made


@pytest.fixture
def folder(questions: list[Question], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    write_task(tmp_path / "tasks", "next_line", questions)
    return tmp_path / "tasks"


def plain_accuracy(
    model: RinscForCausalLM, words: BytePairTokenizer, questions: list[Question], rounds: int
) -> float:
    """The share of questions whose answer has the greatest likelihood behind its line."""
    right = 0
    for question in questions:
        sums = []
        for choice in question.choices:
            first = len(words.encode(question.context))
            ids = torch.from_numpy(words.encode(question.context + choice).astype("int64"))
            with torch.no_grad():
                given = ids[:-1][-CONTEXT:]
                logits = model(given[None], rounds=rounds, use_cache=False).logits[0]
            new = len(ids) - first
            chances = logits.log_softmax(-1)[-new:]
            sums.append(float(chances[torch.arange(new), ids[first:]].sum()))
        right += sums.index(max(sums)) == question.answer
    return right / len(questions)


def test_accuracy_is_that_of_a_plain_loop(
    recursive: FinishedRun, folder: Path, questions: list[Question]
) -> None:
    words, model = recursive.tokenizer(), trained_model(recursive, CPU)
    with torch.no_grad():
        for parameter in model.model.get_submodule("A").parameters():
            parameter.mul_(4)  # so that rounds matter
    manager = find_tasks(["next_line"], words, folder)
    found = []
    for rounds in (1, 2, 5):
        (score,) = score_tasks(model, words, ["next_line"], manager, rounds=rounds)
        assert (score.task, score.metric) == ("next_line", "acc")
        assert score.value == pytest.approx(plain_accuracy(model, words, questions, rounds))
        assert score.stderr is not None
        found.append(score.value)
        assert model.config.rounds is None
    assert len(set(found)) > 1  # the rounds do arrive


def test_the_plain_loop_can_disagree(
    recursive: FinishedRun, folder: Path, questions: list[Question]
) -> None:
    words, model = recursive.tokenizer(), trained_model(recursive, CPU)
    manager = find_tasks(["next_line"], words, folder)
    (score,) = score_tasks(model, words, ["next_line"], manager, rounds=1)
    turned = [Question(q.context, q.choices[::-1], q.answer) for q in questions]
    assert plain_accuracy(model, words, turned, 1) != pytest.approx(score.value)


def test_a_limit_takes_the_first_examples(
    recursive: FinishedRun, folder: Path, questions: list[Question]
) -> None:
    words, model = recursive.tokenizer(), trained_model(recursive, CPU)
    manager = find_tasks(["next_line"], words, folder)
    (score,) = score_tasks(model, words, ["next_line"], manager, limit=7)
    assert score.value == pytest.approx(plain_accuracy(model, words, questions[:7], 3))


def test_an_unknown_task_names_the_nearest(recursive: FinishedRun, folder: Path) -> None:
    with pytest.raises(UsageError) as caught:
        find_tasks(["next_lines"], recursive.tokenizer(), folder)
    assert caught.value.code == "unknown-task"
    assert "did you mean '" in str(caught.value.hint)


def test_a_task_whose_data_is_far_away(
    recursive: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    lines = "task: far\ndataset_path: nobody/nowhere\noutput_type: multiple_choice\n"
    (tmp_path / "far.yaml").write_text(lines + "test_split: test\ndoc_to_text: a\n")
    with pytest.raises(DataError) as caught:
        find_tasks(["far"], recursive.tokenizer(), tmp_path)
    assert "the data set of the task 'far' cannot be fetched" in str(caught.value)


def test_a_task_that_is_broken(recursive: FinishedRun, folder: Path) -> None:
    file = folder / "next_line.yaml"
    file.write_text(file.read_text().replace("{{context}}", "{{no_such_field}}"))
    with pytest.raises(DataError, match="no_such_field") as caught:
        find_tasks(["next_line"], recursive.tokenizer(), folder)
    assert caught.value.code == "task-failed"


def test_a_task_that_does_not_fit_into_the_context(
    recursive: FinishedRun, folder: Path, questions: list[Question]
) -> None:
    long = [Question(q.context, [5 * choice for choice in q.choices], q.answer) for q in questions]
    write_task(folder / "long", "long", long)
    words, model = recursive.tokenizer(), trained_model(recursive, CPU)
    manager = find_tasks(["long"], words, folder)
    with pytest.raises(DataError) as caught:
        score_tasks(model, words, ["long"], manager, rounds=2)
    assert caught.value.code == "task-failed"
    assert "AssertionError:" not in str(caught.value)  # the harness says no more
    assert "fit into the model's context" in str(caught.value.hint)
    assert model.config.rounds is None


def test_generating_needs_a_token_that_ends_it(recursive: FinishedRun, folder: Path) -> None:
    file = folder / "next_line.yaml"
    file.write_text(file.read_text().replace("multiple_choice", "generate_until"))
    with pytest.raises(DataError) as caught:
        find_tasks(["next_line"], train_tokenizer(["a b"], 256), folder)
    assert caught.value.code == "no-end-token"
    find_tasks(["next_line"], recursive.tokenizer(), folder)  # which has <|endoftext|>


def test_a_folder_of_tasks_that_is_not_there(runs: Runs, recursive: FinishedRun) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        find_tasks(["next_line"], recursive.tokenizer(), runs.text / "nowhere")
