"""``rinsc train`` and ``rinsc generate``."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rinsc.cli.demo import DemoSettings
from rinsc.cost import match_compute, stored_params, training_flops
from rinsc.data.tokenizer import load_tokenizer, train_tokenizer
from rinsc.graph import build_graph
from rinsc.spec import model_spec
from rinsc.syntax import parse
from rinsc.training.run_folder import RunFolder, alone_in
from tests.cli.command_line import Result, run_cli
from tests.cli.conftest import SIGNATURE, TINY


def train(corpus: str, folder: Path, *more: str) -> Result:
    return run_cli(
        *("train", SIGNATURE, *TINY, "--data", corpus, "-o", str(folder)),
        *("--batch", "2", "--device", "cpu", *more),
    )


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_folder_holds_everything(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert {"model.toml", "train.toml", "data.json", "tokenizer.json", "result.json"} <= names
    assert {"model.safetensors", "metrics.jsonl", "config.json", "checkpoint-4"} <= names
    assert model_spec(run / "model.toml").text == SIGNATURE


def test_json_goes_to_standard_output_and_progress_does_not(corpus: str, tmp_path: Path) -> None:
    status, out, err = train(corpus, tmp_path / "run", "--steps", "2", "--json")
    assert status == 0, err
    result = json.loads(out)
    assert result["steps"] == 2
    assert result["bits_per_byte"] > 0
    assert "2 steps" in err


@pytest.mark.parametrize("budget", ["tokens", "flops"])
def test_other_budgets_become_steps(corpus: str, run: Path, tmp_path: Path, budget: str) -> None:
    spec = model_spec(run / "model.toml")
    step = {"tokens": 2 * 16, "flops": training_flops(spec, 16, batch=2)}[budget]
    args = (f"--{budget}", str(3 * step - 1), "--json")
    status, out, err = train(corpus, tmp_path / "run", *args)
    assert status == 0, err
    assert json.loads(out)["steps"] == 2


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--batch", "0"),
        ("--lr", "-1"),
        ("--warmup", "-3"),
        ("--lr-visits-power", "2"),
        ("--checkpoint-every", "0"),
    ],
)
def test_a_bad_setting_is_told_by_its_option(
    corpus: str, tmp_path: Path, option: str, value: str
) -> None:
    args = ("train", "AB", *TINY, "--data", corpus, "-o", str(tmp_path / "run"))
    status, _, err = run_cli(*args, f"{option}={value}")
    assert status == 2
    assert err.splitlines()[1].strip() == f"at {option}"


def test_a_run_is_not_overwritten_unasked(corpus: str, run: Path) -> None:
    before = contents(run)
    status, out, err = train(corpus, run, "--steps", "2")
    assert (status, out) == (1, "")
    assert "error[run-exists]" in err
    assert "'steps' is 2; the run was begun with 4" in err
    assert contents(run) == before


@pytest.mark.parametrize("theirs", ["model.safetensors", "config.json", "checkpoint-7"])
def test_a_model_of_others_is_not_overwritten_unasked(
    corpus: str, tmp_path: Path, theirs: str
) -> None:
    folder = tmp_path / "llama"
    (folder / "checkpoint-7").mkdir(parents=True)
    (folder / theirs / "weights" if theirs == "checkpoint-7" else folder / theirs).write_text("w")
    before = contents(folder)
    status, out, err = train(corpus, folder, "--steps", "2")
    assert (status, out) == (1, "")
    assert "error[not-a-run]" in err
    assert contents(folder) == before
    assert train(corpus, folder, "--steps", "2", "--overwrite").status == 0


def test_two_do_not_train_into_one_folder(corpus: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with alone_in(folder):
        status, out, err = train(corpus, folder.path, "--steps", "2")
        assert (status, out) == (1, "")
        assert "error[run-in-use]" in err
        assert not folder.is_begun
        assert train(corpus, folder.path, "--steps", "2", "--overwrite").status == 1
    assert train(corpus, folder.path, "--steps", "2").status == 0


def test_a_run_that_another_process_began_meanwhile_is_left_alone(
    corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path / "run")
    monkeypatch.setattr("rinsc.training.start.alone_in", lambda _: _beginning(folder))
    status, out, err = train(corpus, folder.path, "--steps", "2")
    assert (status, out) == (1, "")
    assert "error[run-in-use]" in err
    assert folder.config.read_text() == "theirs"


@contextlib.contextmanager
def _beginning(folder: RunFolder) -> Iterator[None]:
    """The lock, had once another process had it, began a run and was stopped."""
    folder.path.mkdir()
    folder.config.write_text("theirs")
    yield


def test_another_tokenizer_is_told_before_and_after_the_end(
    corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, other = tmp_path / "run", tmp_path / "other.json"
    stop_at_the_end(corpus, folder, monkeypatch)
    own = load_tokenizer(folder / "tokenizer.json")
    words = [f"{first}{second}ly" for first in "ABCDEFGHI" for second in "stuvwxyz"]
    train_tokenizer([" ".join(words)], own.vocab_size).save(other)
    again = ("--steps", "3", "--tokenizer")
    assert "begun with another tokenizer" in train(corpus, folder, *again, str(other)).err
    assert train(corpus, folder, *again, str(folder / "tokenizer.json")).status == 0
    assert "error[run-exists]" in train(corpus, folder, *again, str(other)).err
    assert "error[cannot-read]" in train(corpus, folder, *again, "nowhere.json").err
    done = train(corpus, folder, *again, str(folder / "tokenizer.json"))
    assert "this run is finished" in done.err


@pytest.mark.parametrize(
    ("option", "value"),
    [("--data", "text:none"), ("--context", "65536"), ("--layers", "1"), ("--heads", "5")],
    ids=["no text", "text too small for the context", "layers", "heads"],
)
def test_the_old_run_stays_until_the_new_one_can_start(
    corpus: str, run: Path, tmp_path: Path, option: str, value: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    before = contents(folder)
    args = ["train", SIGNATURE, *TINY, "--data", corpus, "-o", str(folder), "--overwrite"]
    args += ["--steps", "2", "--batch", "2", "--device", "cpu"]
    mistaken = list(args)
    mistaken[args.index(option) + 1] = value
    status, out, err = run_cli(*mistaken)
    assert (status, out) == (1, ""), err
    assert contents(folder) == before
    assert run_cli(*args).status == 0
    assert (folder / "result.json").read_bytes() != before[folder / "result.json"]


def test_a_place_that_cannot_be_written_is_told_before_any_work(
    corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_early(*_: object, **__: object) -> None:
        raise AssertionError("the corpus was read")

    monkeypatch.setattr("rinsc.data.corpora.open_corpus", too_early)
    (tmp_path / "file").touch()
    status, out, err = train(corpus, tmp_path / "file" / "run", "--steps", "2")
    assert (status, out) == (1, "")
    assert "error[cannot-write]: " in err


def test_rounds_are_trained_and_generated_by_name(corpus: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    status, out, err = train(corpus, folder, "--steps", "2", "--rounds", "A=3", "--json")
    assert status == 0, err
    flops = training_flops(model_spec(folder / "model.toml"), 16, batch=2, rounds={"A": 3})
    assert json.loads(out)["training_flops"] == 2 * flops
    assert 'rounds = { "A" = 3 }' in (folder / "train.toml").read_text()
    args = ("generate", str(folder), "--prompt", "On", "--max-new-tokens", "4", "--rounds")
    assert run_cli(*args, "A=2") == run_cli(*args, "2")


def test_blocks_are_compiled_when_asked(
    corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[object] = []
    asked: list[object] = []
    monkeypatch.setattr("rinsc.training.run.compile_blocks", compiled.append)
    monkeypatch.setattr("rinsc.training.start.require_compiler", asked.append)
    assert train(corpus, tmp_path / "plain", "--steps", "1").status == 0
    assert compiled == asked == []
    assert train(corpus, tmp_path / "compiled", "--steps", "1", "--compile").status == 0
    assert len(compiled) == len(asked) == 1


def stop_at_the_end(corpus: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train three steps and interrupt the run before it is marked as finished."""

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("rinsc.training.run.write_result", stopped)
        assert train(corpus, folder, "--steps", "3").status == 130


def test_resuming_with_other_settings_names_them(
    corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    stop_at_the_end(corpus, folder, monkeypatch)
    status, _, err = train(corpus, folder, "--steps", "3", "--lr", "0.5")
    assert status == 1
    assert "'learning_rate' is 0.5; the run was begun with 0.002" in err
    assert err.count("error[other-settings]") == 1


@pytest.mark.parametrize(
    ("option", "value", "what"),
    [
        (
            "--width",
            "32",
            f"'{SIGNATURE}', and '{SIGNATURE}' is another model: width is 32, not 16",
        ),
        ("--vocab-size", "280", f"'{SIGNATURE}', and '{SIGNATURE}' is another model: vocab_size"),
        ("--data", "", "another text"),
    ],
)
def test_a_run_stopped_before_its_checkpoint_is_not_resumed_as_another(
    corpus: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    value: str,
    what: str,
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("torch.nn.utils.clip_grad_norm_", interrupt)
        assert train(corpus, folder, "--steps", "3").status == 130
    (tmp_path / "other.txt").write_text(Path(corpus.removeprefix("text:")).read_text()[::-1])
    before = contents(folder)
    args = ["train", SIGNATURE, *TINY, "--data", corpus, "-o", str(folder)]
    args += ["--steps", "3", "--batch", "2", "--device", "cpu", "--json"]
    other = list(args)
    other[args.index(option) + 1] = value or f"text:{tmp_path / 'other.txt'}"
    status, out, err = run_cli(*other)
    assert (status, out) == (1, "")
    assert err.count("error[") == 1
    assert f"error[foreign-checkpoint]: this run was begun with {what}" in err
    assert contents(folder) == before
    assert json.loads(run_cli(*args).out)["steps"] == 3


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (("--context", "65536"), "too-little-text"),
        (("--width", str(1 << 20)), "does-not-fit"),
    ],
)
def test_nothing_is_allocated_for_a_run_that_cannot_start(
    corpus: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: tuple[str, str],
    code: str,
) -> None:
    def too_early(*_: object, **__: object) -> None:
        raise AssertionError("the model was made")

    monkeypatch.setattr("rinsc.backends.hf.causal_lm", too_early)
    args = ["train", SIGNATURE, *TINY, "--data", corpus, "-o", str(tmp_path / "run")]
    args[args.index(change[0]) + 1] = change[1]
    status, out, err = run_cli(*args, "--steps", "1", "--batch", "2", "--device", "cpu")
    assert (status, out) == (1, ""), err
    assert f"error[{code}]: " in err
    assert not (tmp_path / "run").exists()


def test_memory_that_runs_out_is_one_error(
    corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def hungry(*_: object, **__: object) -> torch.Tensor:
        return torch.empty(1 << 50)

    with monkeypatch.context() as patch:
        patch.setattr("rinsc.objectives.next_token.causal_lm", hungry)
        status, out, err = train(corpus, tmp_path / "run", "--steps", "1")
    assert (status, out) == (1, "")
    assert err.count("error[does-not-fit]: memory is used up") == err.count("error[") == 1
    assert train(corpus, tmp_path / "run", "--steps", "1").status == 0


@pytest.mark.parametrize("budget", ["--steps", "--tokens", "--flops"])
def test_more_steps_than_any_run_has_are_refused(corpus: str, tmp_path: Path, budget: str) -> None:
    status, out, err = train(corpus, tmp_path / "run", budget, "1e30")
    assert (status, out) == (2, "")
    assert err.startswith("error[bad-config]: 'steps' must be at most 1000000000, not ")


def test_a_run_that_was_stopped_goes_on_with_the_same_command(
    corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    stop_at_the_end(corpus, folder, monkeypatch)
    checkpoint = contents(folder / "checkpoint-3")
    status, out, err = train(corpus, folder, "--steps", "3", "--json")
    assert status == 0, err
    unbroken = json.loads(train(corpus, tmp_path / "unbroken", "--steps", "3", "--json").out)
    changing = ("run", "seconds")
    assert {**json.loads(out), **dict.fromkeys(changing)} == {
        **unbroken,
        **dict.fromkeys(changing),
    }
    assert contents(folder / "checkpoint-3") == checkpoint
    assert "this run is finished" in train(corpus, folder, "--steps", "3").err
    assert train(corpus, folder, "--steps", "2", "--overwrite").status == 0
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-2"]


@pytest.mark.parametrize(
    ("text", "steps"),
    [("{flops}", 3), ("{flops}flops", 3), ("{tokens} tokens", 3), ("3 steps", 3), ("3steps", 3)],
)
def test_a_budget_in_any_unit(
    corpus: str, run: Path, tmp_path: Path, text: str, steps: int
) -> None:
    flops = 3 * training_flops(model_spec(run / "model.toml"), 16, batch=2)
    budget = text.format(flops=flops, tokens=3 * 2 * 16)
    status, out, err = train(corpus, tmp_path / "run", "--budget", budget, "--json")
    assert status == 0, err
    assert json.loads(out)["steps"] == steps
    assert "3 steps, 96 tokens, " in err  # stated in all three before the start


def test_matched_to_a_baseline(corpus: str, run: Path, tmp_path: Path) -> None:
    spec = model_spec(run / "model.toml")
    baseline = dataclasses.replace(spec, signature=parse("AB"))
    plan = match_compute(baseline, spec, tokens=5 * 2 * 16, batch_tokens=2 * 16, seq=16)
    assert plan.variant_steps < 5
    args = ("--steps", "5", "--match", "AB", "--json")
    status, out, err = train(corpus, tmp_path / "run", *args)
    assert status == 0, err
    assert json.loads(out)["steps"] == plan.variant_steps
    assert json.loads(out)["training_flops"] == plan.variant_flops


def test_rounds_grow_as_told(corpus: str, tmp_path: Path) -> None:
    args = ("--steps", "6", "--rounds-schedule", "1@0,2@30%,4@0.6", "--eval-every", "1")
    status, _, err = train(corpus, tmp_path / "run", *args)
    assert status == 0, err
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["rounds"]["A"] for line in lines] == [1, 1, 2, 2, 4, 4]


def test_both_runtimes_generate_the_same_text(run: Path, onnx_file: Path) -> None:
    args = ("--prompt", "On day 3", "--max-new-tokens", "8", "--rounds", "3")
    torch_status, torch_text, _ = run_cli("generate", str(run), *args)
    onnx_status, onnx_text, _ = run_cli("generate", str(onnx_file), *args)
    assert (torch_status, onnx_status) == (0, 0)
    assert torch_text == onnx_text
    assert torch_text.startswith("On day 3")


def test_sampling_is_reproducible_and_json_holds_the_text(run: Path) -> None:
    args = ("generate", str(run), "--prompt", "On", "--temperature", "1", "--json")
    first, again, other = (run_cli(*args, "--seed", seed).out for seed in ("1", "1", "2"))
    assert first == again != other
    assert json.loads(first)["prompt"] == "On"
    assert json.loads(first)["text"]


def test_a_sample_and_the_whole_of_the_held_out_text_are_told_apart(tmp_path: Path) -> None:
    """One step has two figures: each says what it is of, and the sample's is of 64 windows."""
    folder, text = tmp_path / "run", tmp_path / "rain.txt"
    lines = [f"On day {day} the rain fell, and the river rose by {day % 7}." for day in range(2000)]
    text.write_text("\n".join(lines), encoding="utf-8")
    status, out, err = train(f"text:{text}", folder, "--steps", "4", "--eval-every", "2")
    assert status == 0, err
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    logged = [json.loads(line) for line in lines]
    result = json.loads((folder / "result.json").read_text())
    assert [each["held_out"] for each in logged] == ["sample", "sample"]
    assert f"{logged[-1]['bits_per_byte']:.3f} bits/byte (sample)" in err
    windows = result["held_out_windows"]
    assert windows > 64
    assert f"{result['bits_per_byte']:.4f} on the whole held-out text ({windows} windows)" in out
    assert result["bits_per_byte"] != logged[-1]["bits_per_byte"]
    whole = run_cli("eval", str(folder), "--device", "cpu", "--json")
    part = run_cli(*("eval", str(folder), "--device", "cpu", "--windows", "64"))
    facts = json.loads(whole.out)
    assert (facts["held_out"], facts["windows"]) == ("whole", windows)
    assert facts["rows"][-1]["bits_per_byte"] == pytest.approx(result["bits_per_byte"], rel=1e-5)
    assert "a sample of 64 windows" in part.out
    assert f"{logged[-1]['bits_per_byte']:.4f}" in part.out


def test_a_result_of_an_earlier_version_is_read(corpus: str, run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    facts = json.loads((folder / "result.json").read_text())
    keys = ("steps", "tokens", "epochs", "training_flops", "loss_nats", "bits_per_byte", "seconds")
    old = {key: facts[key] for key in (*keys, "perplexity", "accuracy")}
    (folder / "checksums.json").unlink()  # which such a version did not write
    (folder / "result.json").write_text(json.dumps(old))
    status, out, err = train(corpus, folder, "--steps", "4")
    assert status == 0, err
    assert "this run is finished" in err
    assert f"{old['bits_per_byte']:.4f} on held-out text" in out
    assert run_cli("eval", str(folder), "--device", "cpu", "--windows", "3").status == 0


def test_the_demo_says_what_ran(tmp_path: Path, small_demo: None) -> None:
    """Every command that it shows can be given again, and trains at the baseline's budget."""
    status, out, err = run_cli("demo", "-o", str(tmp_path))
    assert status == 0, err
    commands = [line.removeprefix("$ ") for line in out.splitlines() if line.startswith("$ ")]
    assert [line.split()[1] for line in commands] == [
        *("show", "cost", "train", "train", "compile", "eval", "generate", "generate")
    ]
    results = [
        json.loads((tmp_path / name / "result.json").read_text())
        for name in ("baseline", "variant")
    ]
    budget, spent = (result["training_flops"] for result in results)
    step = results[1]["training_flops"] / results[1]["steps"]
    assert 0 <= budget - spent < step
    assert run_cli(*shlex.split(commands[1])[1:]).status == 0
    told = run_cli("demo", "-o", str(tmp_path), "--json")
    summary = json.loads(told.out)
    assert summary.pop("folder") == str(tmp_path)
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    assert set(summary["bits_per_byte_by_rounds"]) == {"1", "2", "3", "4"}
    assert "6. Result" in out
    assert "6. Result" in told.err


def test_the_demo_trains_its_baseline_long_enough_to_say_something() -> None:
    """At least 50 tokens a parameter, and no run repeats the plays (2.4 million tokens) often."""
    settings = DemoSettings()
    names = ("layers", "width", "heads", "mlp_width", "vocab_size", "context")
    dimensions: dict[str, Any] = {name: getattr(settings, name) for name in names}
    for signature in (settings.baseline, settings.variant):
        spec = model_spec(signature, preset="tiny", **dimensions)
        params = stored_params(build_graph(spec))
        assert 50 * params <= settings.baseline_tokens <= 4 * 2_350_000


def test_a_warm_up_longer_than_the_run_is_said_before_it_starts(
    corpus: str, tmp_path: Path
) -> None:
    status, _, err = train(corpus, tmp_path / "run", "--steps", "4", "--warmup", "100")
    assert status == 0
    note = "note: the warm-up of 100 steps is as long as the run of 4 or longer"
    assert err.index(note) < err.index("step 4/4")
    assert err.count(note) == 1


def test_a_text_that_gives_fewer_tokens_pads_the_vocabulary(corpus: str, tmp_path: Path) -> None:
    args = ["train", SIGNATURE, *TINY, "--data", corpus, "-o", str(tmp_path / "run")]
    args[args.index("--vocab-size") + 1] = "4096"
    status, _, err = run_cli(*args, "--steps", "1", "--batch", "2", "--device", "cpu")
    assert status == 0, err
    size = load_tokenizer(tmp_path / "run").vocab_size
    assert size < 4096
    said = f"the text gives {size} tokens, so {4096 - size} of the vocabulary's 4096 are never used"
    assert said in err
