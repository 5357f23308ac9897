"""`rinsc.train` and `rinsc.evaluate` do in Python what the commands do, to the same bytes."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import rinsc
from rinsc.cost import training_flops
from rinsc.errors import CheckpointError, OutputError, SpecError, UsageError
from rinsc.progress import Observer, SilentProgress
from rinsc.spec import ModelSpec
from rinsc.training.config import TrainConfig, setting_of
from rinsc.training.result import Trained
from tests.cli.command_line import run_cli
from tests.train.runs import TIMES
from tests.verbs.test_export import Cells

SIZES: dict[str, Any] = {
    "width": 16,
    "heads": 2,
    "kv_heads": 2,
    "mlp_width": 24,
    "context": 16,
    "vocab_size": 300,
}
SPEC = rinsc.model_spec("(A^2)B", preset="tiny", layers=2, **SIZES)
SETTINGS = {"batch_sequences": 2, "eval_every": 3, "checkpoint_every": 2}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text("".join(f"line {n} of a text about {n * n}\n" for n in range(4000)))
    return f"text:{path}"


def train(text: str, output: Path, **more: object) -> Trained:
    given = {"budget": "5steps", "settings": SETTINGS, "device": "cpu", **more}
    return rinsc.train(SPEC, data=text, output=output, **given)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def run(text: str, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(text, tmp_path_factory.mktemp("verbs") / "run", progress=SilentProgress())


def timeless(facts: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in facts.items() if key not in (*TIMES, "run")}


def test_the_verb_and_the_command_train_the_same_model(
    run: Trained, text: str, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    sizes = [f"--{name.replace('_', '-')}={value}" for name, value in SIZES.items()]
    done = run_cli(
        *("train", "(A^2)B", "--layers", "2", *sizes, "--data", text, "-o", str(folder)),
        *("--steps", "5", "--batch", "2", "--eval-every", "3", "--checkpoint-every", "2"),
        *("--device", "cpu", "--json"),
    )
    assert done.status == 0, done.err
    assert timeless(json.loads(done.out)) == timeless(run.facts())
    for name in ("model.safetensors", "train.toml", "model.toml", "data.json", "tokenizer.json"):
        assert (folder / name).read_bytes() == (run.path / name).read_bytes(), name
    assert (run.config.sequence_length, run.config.warmup_steps) == (16, 0)


def test_a_notebook_shows_a_run_and_its_evaluation(run: Trained) -> None:
    report = rinsc.evaluate(run.path, rounds=range(1, 4), windows=5, progress=SilentProgress())
    assert len(repr(run)) < 200
    assert repr(report) == f"<EvalReport of {run.path}: 3 rows>"
    shown = Cells(run._repr_html_()).cells
    figure = f"{run.result.quality['bits_per_byte']:.4f} on {run.result.held_out_words}"
    assert shown[shown.index("bits per byte") + 1] == figure
    cells = Cells(report._repr_html_()).cells
    for row in report.rows:
        assert f"{row.quality.figures['bits_per_byte']:.4f}" in cells
        assert f"{row.flops_per_token:,}" in cells


def test_a_finished_run_is_given_back_and_another_is_refused(run: Trained, text: str) -> None:
    before = (run.path / "result.json").read_bytes()
    again = train(text, run.path, progress=SilentProgress())
    assert again.was_finished
    assert not run.was_finished
    assert again.result == run.result
    assert (run.path / "result.json").read_bytes() == before
    with pytest.raises(OutputError, match="finished run"):
        train(text, run.path, settings={**SETTINGS, "seed": 3})


def test_a_whole_config_is_taken_as_it_is(text: str, tmp_path: Path) -> None:
    config = TrainConfig(
        steps=2, batch_sequences=2, sequence_length=9, warmup_steps=1, learning_rate=1e-3
    )
    trained = train(text, tmp_path / "run", settings=config, budget=None, progress=SilentProgress())
    assert trained.config == config
    assert trained.result.tokens == 2 * 2 * 9


def test_a_run_starts_from_another_and_matches_a_baseline(
    run: Trained, text: str, tmp_path: Path
) -> None:
    deeper = rinsc.train(
        *("(A^4)B",),
        data=text,
        output=tmp_path / "deeper",
        start_from=run.path,
        match="AB",
        budget="9steps",
        settings=SETTINGS,
        device="cpu",
        progress=SilentProgress(),
    )
    assert isinstance(deeper.spec, ModelSpec)
    assert deeper.spec.width == SPEC.width
    assert json.loads((deeper.path / "source.json").read_text())["path"] == str(run.path)
    plain = rinsc.model_spec("AB", preset="tiny", layers=2, **SIZES)
    budget = 9 * training_flops(plain, 16, batch=2)
    step = training_flops(deeper.spec, 16, batch=2)
    assert deeper.result.steps == budget // step


def test_mistakes_are_told_before_anything_is_written(text: str, tmp_path: Path) -> None:
    output = tmp_path / "run"
    with pytest.raises(SpecError, match="is not a training setting"):
        train(text, output, settings={"batch": 2})
    with pytest.raises(SpecError, match="beyond the context"):
        train(text, output, settings={"sequence_length": 99})
    with pytest.raises(UsageError, match="is not a tracker"):
        train(text, output, trackers=["paper"])
    with pytest.raises(CheckpointError):
        train(text, output, start_from=tmp_path / "nowhere")
    assert not output.exists()


def test_progress_is_shown_unless_it_is_not_wanted(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(text, tmp_path / "run", budget="1steps", progress=SilentProgress())
    assert capsys.readouterr() == ("", "")
    train(text, tmp_path / "shown", budget="1steps")
    assert "bits per byte on" in capsys.readouterr().err


class Told(SilentProgress):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.done: dict[str, list[float]] = {}

    def line(self, text: str) -> None:
        self.lines.append(text)

    @contextmanager
    def task(self, what: str) -> Iterator[Observer]:
        shares = self.done.setdefault(what, [])
        yield lambda done, state="": shares.append(done or 0.0)


def test_progress_can_be_shown_elsewhere(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = Told()
    trained = train(text, tmp_path / "run", progress=told)
    rinsc.evaluate(trained.path, device="cpu", progress=told)
    assert capsys.readouterr() == ("", "")
    of_training, of_evaluation = told.done.values()  # the text was prepared before
    assert of_training == [step / 5 for step in range(1, 6)]
    assert of_evaluation == sorted(of_evaluation)
    assert of_evaluation[-1] == pytest.approx(1)
    assert [line.split(" · ")[1] for line in told.lines] == ["step 3/5", "step 5/5", "done"]


def test_the_verb_and_the_command_evaluate_alike(run: Trained, tmp_path: Path) -> None:
    picture = tmp_path / "quality.svg"
    report = rinsc.evaluate(run.path, rounds=[1, {"A": 3}], windows=4, device="cpu", output=picture)
    shown = run_cli(
        *("eval", str(run.path), "--rounds", "1,3", "--windows", "4", "--device", "cpu"),
        *("-o", str(tmp_path / "command.svg"), "--json"),
    )
    assert shown.status == 0, shown.err
    assert (
        report.facts()
        == json.loads(shown.out)
        == json.loads((tmp_path / "quality.json").read_text())
    )
    assert picture.read_bytes() == (tmp_path / "command.svg").read_bytes()
    (own,) = rinsc.evaluate(run.path, rounds=2, device="cpu").rows
    assert own.quality.figures["bits_per_byte"] == pytest.approx(run.result.bits_per_byte, rel=1e-6)
    assert [row.label for row in rinsc.evaluate(run.path, device="cpu").rows] == ["1", "2"]


def test_every_option_of_a_setting_is_that_of_its_field() -> None:
    shown = " ".join(re.sub(r"[│╭╮╰╯─]", " ", run_cli("train", "--help").out).split())
    options = [setting_of(field) for field in dataclasses.fields(TrainConfig)]
    named = [setting.option for setting in options if setting.option]
    assert len(named) == len(set(named)) == 26
    for setting in options:
        if setting.option:
            assert f"{setting.option} " in shown
            assert setting.doc.split(";")[0].split(",")[0][:40] in shown, setting.option


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"windows": 0}, "windows must be at least 1"),
        ({"limit": 0}, "limit must be at least 1"),
        ({"margin": 0.1}, "margin is about a baseline"),
        ({"include": "tasks"}, "include is about tasks"),
        ({"limit": 3}, "limit is about tasks"),
    ],
)
def test_settings_of_an_evaluation_that_do_not_fit(
    run: Trained, settings: dict[str, Any], words: str
) -> None:
    """In Python as on the command line."""
    with pytest.raises(UsageError, match=words):
        rinsc.evaluate(run.path, device="cpu", **settings)
    (name, value) = next(iter(settings.items()))
    done = run_cli("eval", str(run.path), f"--{name}", str(value))
    assert done.status == 2
    assert words.partition(" ")[2].partition("must")[0] in done.err
