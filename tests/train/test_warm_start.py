"""Runs that begin with the weights of another: what is taken, and that resuming needs no source."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from rinsc.backends.torch import CompiledModule, load_weights, to_torch
from rinsc.backends.torch.weights import save_weights
from rinsc.data.batches import TokenizedCorpus
from rinsc.errors import CheckpointError
from rinsc.graph import build_graph
from rinsc.spec import ModelSpec, with_signature
from rinsc.syntax import parse
from rinsc.train.config import TrainConfig
from rinsc.train.finished import FinishedRun, finished_run, trained_run
from rinsc.train.run import train
from rinsc.train.run_folder import RunFolder, open_run_folder
from rinsc.train.warm_start import begun_source, source_of, spec_from, take_weights
from tests.cli.command_line import run_cli
from tests.cli.conftest import TINY
from tests.train.runs import EndAt, EndedError, differing, fresh, timeless, trained

IDS = torch.arange(40).reshape(2, 20) % 97


@pytest.fixture(scope="module")
def source(
    spec: ModelSpec,
    tokens: TokenizedCorpus,
    config: TrainConfig,
    tmp_path_factory: pytest.TempPathFactory,
) -> FinishedRun:
    """A finished run of (A^3)B whose weights are far from any fresh ones."""
    folder = tmp_path_factory.mktemp("source") / "run"
    _, run = trained(spec, tokens, dataclasses.replace(config, learning_rate=0.05), folder)
    return finished_run(run.path)


def logits(model: CompiledModule, rounds: int | None = None) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(IDS, rounds=rounds)
    return found


def warm(source: FinishedRun, spec: ModelSpec) -> CompiledModule:
    torch.manual_seed(8)
    model = to_torch(spec)
    take_weights(model, build_graph(spec), source)
    return model


@pytest.mark.parametrize(
    "signature",
    ["(A^4)B", "(A^3{adapter=linear})B", "(A^5{skip=0.5, adapter=lora(2)})B", "(A^3)B^2"],
)
def test_at_the_rounds_of_the_source_it_computes_what_the_source_does(
    source: FinishedRun, spec: ModelSpec, signature: str
) -> None:
    model = warm(source, with_signature(spec, signature))
    rounds = {"A": 3, "B": 1} if "B^2" in signature else 3
    with torch.no_grad():
        found = model.eval()(IDS, rounds=rounds)
    torch.testing.assert_close(found, logits(source.model(torch.device("cpu"))))


def test_adapters_of_more_rounds_keep_those_of_the_first(
    source: FinishedRun, spec: ModelSpec, tmp_path: Path
) -> None:
    """Rows of the source by round; the new one starts as the identity."""
    old, new = (with_signature(spec, f"(A^{r}{{adapter=linear}})B") for r in (2, 3))
    theirs = to_torch(old)
    adapter = theirs.get_parameter("loop_A.adapter.weight")
    with torch.no_grad():
        adapter.copy_(torch.randn_like(adapter))
    run = run_with(source, theirs, tmp_path / "adapted")
    model = warm(run, new)
    found = model.get_parameter("loop_A.adapter.weight")
    assert torch.equal(found[:2], adapter)
    assert torch.equal(found[2], to_torch(new).get_parameter("loop_A.adapter.weight")[2])
    assert torch.equal(logits(model, 2), logits(theirs, 2))


def run_with(source: FinishedRun, model: CompiledModule, folder: Path) -> FinishedRun:
    """A copy of a run that ended as another model with these weights."""
    shutil.copytree(source.folder.path, folder)
    run = dataclasses.replace(source, folder=RunFolder(folder), graph=model.graph)
    save_weights(model, run.folder.weights)
    return run


def test_adapters_of_another_kind_start_fresh(
    source: FinishedRun, spec: ModelSpec, tmp_path: Path
) -> None:
    """scale and embed have tensors of one name and shape, which mean other things."""
    old, new = (with_signature(spec, f"(A^3{{adapter={kind}}})B") for kind in ("scale", "embed"))
    theirs = to_torch(old)
    run = run_with(source, theirs, tmp_path / "scaled")
    takeover = take_weights(to_torch(new), build_graph(new), run)
    assert "loop_A.adapter.weight" in takeover.fresh
    assert "loop_A.adapter.weight" in takeover.left


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_head_and_one_of_its_own(
    source: FinishedRun, spec: ModelSpec, tmp_path: Path, tied: bool
) -> None:
    before, now = (dataclasses.replace(spec, tied_embedding=each) for each in (tied, not tied))
    torch.manual_seed(3)
    theirs = to_torch(before)
    run = run_with(source, theirs, tmp_path / "run")
    model = to_torch(now)
    takeover = take_weights(model, build_graph(now), run)
    assert torch.equal(
        model.get_parameter("embedding.weight"), theirs.get_parameter("embedding.weight")
    )
    if tied:  # the head starts as the embedding, which it was
        assert torch.equal(logits(model), logits(theirs))
    else:
        assert takeover.left == ("head.weight",)
    assert any("tied_embedding" in note for note in takeover.notes)


def test_the_report_has_every_tensor_once(source: FinishedRun, spec: ModelSpec) -> None:
    now = dataclasses.replace(
        with_signature(spec, "(A^3{adapter=linear})C", strict=True), norm_eps=1e-3
    )
    model = to_torch(now)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    takeover = take_weights(model, build_graph(now), source)
    theirs = source.model(torch.device("cpu")).state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, theirs[name] if name in takeover.taken else before[name])
    assert sorted(takeover.taken + takeover.fresh) == sorted(model.state_dict())
    assert {name.split(".")[0] for name in takeover.left} == {"B"}
    lines = "\n".join(takeover.lines())
    assert "taken: embedding, A (layer 1), final_norm" in lines
    assert "fresh: C (layer 1), loop_A.adapter" in lines
    assert "left in the source: B (layer 1)" in lines
    assert "norm_eps is 0.001, not 1e-05" in lines


@pytest.mark.parametrize(
    ("change", "code", "word"),
    [
        ({"width": 56, "heads": 7}, "other-dimensions", "width is 56, and 28 in the source"),
        ({"heads": 14, "kv_heads": 14}, "other-dimensions", "heads is 14, and 7 in the source"),
        ({"vocab_size": 311}, "other-dimensions", "vocab_size is 311"),
        ({"kind": "gpt"}, "other-dimensions", "kind is gpt"),
        ({"signature": parse("CD")}, "nothing-to-take", "no block of '(A^3)B'"),
        ({"signature": parse("A{kind=ouro}B")}, "other-block", "block A has kind ouro"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(
    source: FinishedRun, spec: ModelSpec, change: dict[str, object], code: str, word: str
) -> None:
    now = dataclasses.replace(spec, **change)  # type: ignore[arg-type]
    model = to_torch(now)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        take_weights(model, build_graph(now), source)
    assert caught.value.code == code
    assert word in str(caught.value)
    assert all(problem.hint for problem in caught.value.problems)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_training_from_a_source_is_training_from_its_weights(
    source: FinishedRun,
    spec: ModelSpec,
    tokens: TokenizedCorpus,
    config: TrainConfig,
    tmp_path: Path,
) -> None:
    """Also where fresh residual weights start scaled: those of a source stay as they are."""
    config = dataclasses.replace(config, init_depth="stored", learning_rate=0.01)
    by_hand = fresh(spec)
    load_weights(by_hand.model, source.weights)
    train(by_hand, spec, tokens, dataclasses.replace(config, init_depth="executed"),
          open_run_folder(tmp_path / "hand"))  # fmt: skip
    model, folder = fresh(spec), open_run_folder(tmp_path / "run")
    told = []
    train(
        *(model, spec, tokens, config, folder),
        source=source_of(source),
        report=lambda origin, takeover: told.append((origin.path, takeover)),
    )
    assert differing(model, by_hand) == []
    ((path, takeover),) = told
    assert path == str(source.path)
    assert not takeover.fresh
    record = json.loads(folder.source.read_text())
    assert record["step"] == config.steps
    assert not folder.initial_weights.exists()
    run = finished_run(folder.path)
    facts = json.loads(folder.result.read_text())
    assert run.training_flops == facts["training_flops"] + source.training_flops
    assert facts["source"]["training_flops"] == source.training_flops


@pytest.mark.parametrize("stop", [1, 5])
def test_it_resumes_to_the_same_bits_without_its_source(
    source: FinishedRun,
    spec: ModelSpec,
    tokens: TokenizedCorpus,
    config: TrainConfig,
    tmp_path: Path,
    stop: int,
) -> None:
    """Stopped before its first checkpoint, and after it."""
    deeper = with_signature(spec, "(A^4{adapter=linear})B")
    whole, whole_folder = fresh(deeper), open_run_folder(tmp_path / "whole")
    train(whole, deeper, tokens, config, whole_folder, source=source_of(source))
    gone = Path(shutil.copytree(source.folder.path, tmp_path / "gone"))
    folder = open_run_folder(tmp_path / "run")
    with pytest.raises(EndedError):
        train(
            *(fresh(deeper), deeper, tokens, config, folder),
            source=source_of(finished_run(gone)),
            observer=EndAt(stop),
        )
    shutil.rmtree(gone)
    resumed, begun = fresh(deeper), begun_source(folder)
    assert begun is not None
    if stop == 1:
        damaged = RunFolder(Path(shutil.copytree(folder.path, tmp_path / "damaged")))
        content = bytearray(damaged.initial_weights.read_bytes())
        content[-5] ^= 1
        damaged.initial_weights.write_bytes(content)
        with pytest.raises(CheckpointError, match="damaged"):
            train(fresh(deeper), deeper, tokens, config, damaged, resume=True, source=begun)
    train(resumed, deeper, tokens, config, folder, resume=True, source=begun)
    assert differing(resumed, whole) == []
    assert timeless(folder) == timeless(whole_folder)


def test_blocks_keep_their_layers(spec: ModelSpec) -> None:
    four = dataclasses.replace(spec, layers=4)
    assert dict(spec_from(four, parse("A^4B")).parts) == {"A": 2, "B": 2}
    assert dict(spec_from(four, parse("A^4BC")).parts) == {"A": 2, "B": 2, "C": 2}
    assert dict(spec_from(four, parse("A^4")).parts) == {"A": 2}
    assert dict(spec_from(four, parse("A[3]B[1]")).parts) == {"A": 3, "B": 1}
    assert spec_from(four, parse("AB"), context=11).context == 11
    assert spec_from(four, parse("AB")).width == four.width


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("corpus") / "rain.txt"
    lines = [f"On day {day} the rain fell, and the river rose by {day % 7}." for day in range(300)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return f"text:{path}"


@pytest.fixture(scope="module")
def first(text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "first"
    done = run_cli(*("train", "A^2B", *TINY, "--data", text, "-o", str(folder)), *HOW)
    assert done.status == 0, done.err
    return folder


REST = ("--data", "{text}", "-o", "{new}")
HOW = ("--steps", "4", "--batch", "2", "--device", "cpu", "--checkpoint-every", "2")


def test_the_command_takes_dimensions_tokenizer_and_weights(
    text: str, first: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    command = ("train", "A^3{adapter=linear}B", "--from", str(first), "--data", text, *HOW)
    done = run_cli(*command, "-o", str(folder))
    assert done.status == 0, done.err
    assert "taken: embedding, A (layer 1), B (layer 1), final_norm" in done.err
    assert "fresh: loop_A.adapter" in done.err
    words = "tokenizer.json"
    assert (folder / words).read_bytes() == (first / words).read_bytes()
    again = run_cli(*command, "-o", str(folder))
    assert "this run is finished" in again.err
    # Begun from a checkpoint of it, and from what is not finished yet.
    part = run_cli(*command[:2], "--from", str(first / "checkpoint-2"), *command[4:],
                   "-o", str(tmp_path / "part"))  # fmt: skip
    assert part.status == 0, part.err
    assert "after 2 steps" in part.err
    unfinished = Path(shutil.copytree(first, tmp_path / "unfinished"))
    (unfinished / "result.json").unlink()
    assert trained_run(unfinished).steps == 4
    assert trained_run(unfinished).words.startswith("checkpoint-4 of a run that is not finished")


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("train", "{first}", *REST), "run-as-model"),
        (("train", "{first}"), "run-as-model"),  # before it asks for what else is missing
        (("train", "A^3B", "--from", "{new}", "--data", "{text}", "-o", "{new}2"), "not-a-run"),
        (
            ("train", "A^3B", "--from", "{first}", "--data", "{text}", "-o", "{first}"),
            "own-source",
        ),
        (("train", "A^3B", "--from", "{first}", "--width", "32", *REST), "other-dimensions"),
        (("train", "A^3B", "--from", "{first}", "--vocab-size", "280", *REST), "other-dimensions"),
        (("train", "CD", "--from", "{first}", *REST), "nothing-to-take"),
        (
            ("train", "A^3B", "--from", "{first}", "--tokenizer", "{other}", *REST),
            "other-tokenizer",
        ),
    ],
)
def test_mistakes_are_one_error(
    text: str, first: Path, tmp_path: Path, args: tuple[str, ...], code: str
) -> None:
    new = tmp_path / "new"
    other = json.loads((first / "tokenizer.json").read_text())
    other["model"]["merges"] = other["model"]["merges"][::-1]
    (tmp_path / "other.json").write_text(json.dumps(other))
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    names = {"first": first, "text": text, "new": new, "other": tmp_path / "other.json"}
    done = run_cli(*(arg.format(**names) for arg in args), *HOW)
    assert done.status != 0
    assert f"error[{code}" in done.err
    assert "hint: " in done.err
    assert "Traceback" not in done.err
    assert not new.exists()
    assert {path: path.read_bytes() for path in first.rglob("*") if path.is_file()} == before


def test_a_run_goes_on_only_from_where_it_was_begun(text: str, first: Path, tmp_path: Path) -> None:
    command = ("train", "A^3B", "--data", text, "-o", str(tmp_path / "run"), *HOW)
    assert run_cli(*command, "--from", str(first)).status == 0
    (tmp_path / "run" / "result.json").unlink()
    without = run_cli(*command, *TINY)
    assert without.status != 0
    assert "error[other-source]: this run was begun from the weights of" in without.err
    away = tmp_path / "away"
    shutil.copytree(first, away)
    assert run_cli(*command, "--from", str(away)).status == 0  # the same weights
