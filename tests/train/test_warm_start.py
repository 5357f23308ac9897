"""Runs that begin with the weights of another: what is taken, and that resuming needs no source."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from rinsc.backends.hf import RinscForCausalLM
from rinsc.backends.torch import CompiledModule, load_weights, to_torch
from rinsc.backends.torch.weight_files import save_weights
from rinsc.data.batches import TokenizedCorpus
from rinsc.data.tokenizer import tokenizer_from_json, train_tokenizer
from rinsc.errors import CheckpointError
from rinsc.graph import build_graph
from rinsc.spec import ModelSpec, with_signature
from rinsc.syntax import parse
from rinsc.training.config import TrainConfig
from rinsc.training.finished import FinishedRun
from rinsc.training.opening import finished_run, trained_run
from rinsc.training.run import train_module
from rinsc.training.run_folder import RunFolder, open_run_folder
from rinsc.training.warm_start import begun_source, source_of, spec_from, take_weights
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
    train_module(by_hand, spec, tokens, dataclasses.replace(config, init_depth="executed"),
          open_run_folder(tmp_path / "hand"))  # fmt: skip
    model, folder = fresh(spec), open_run_folder(tmp_path / "run")
    told = []
    train_module(
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
    train_module(whole, deeper, tokens, config, whole_folder, source=source_of(source))
    gone = Path(shutil.copytree(source.folder.path, tmp_path / "gone"))
    folder = open_run_folder(tmp_path / "run")
    with pytest.raises(EndedError):
        train_module(
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
            train_module(fresh(deeper), deeper, tokens, config, damaged, resume=True, source=begun)
    train_module(resumed, deeper, tokens, config, folder, resume=True, source=begun)
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
    assert trained_run(unfinished).state.startswith("checkpoint-4 of a run that is not finished")


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
        (
            ("train", "A^3B", "--from", "{first}", "--vocab-size", "258", *REST),
            "vocabulary-mismatch",
        ),
        (("train", "CD", "--from", "{first}", *REST), "nothing-to-take"),
        (("train", "A^3B", "--from", "{bare}", *REST), "no-tokenizer"),
    ],
)
def test_mistakes_are_one_error(
    text: str, first: Path, tmp_path: Path, args: tuple[str, ...], code: str
) -> None:
    new = tmp_path / "new"
    bare = saved_model(first, tmp_path / "bare")
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    names = {"first": first, "text": text, "new": new, "bare": bare}
    done = run_cli(*(arg.format(**names) for arg in args), *HOW)
    assert done.status != 0
    assert f"error[{code}" in done.err
    assert "hint: " in done.err
    assert "Traceback" not in done.err
    assert not new.exists()
    assert {path: path.read_bytes() for path in first.rglob("*") if path.is_file()} == before


def saved_model(run: Path, folder: Path, size: str = "50GB") -> Path:
    """What a user of transformers makes of a run."""
    RinscForCausalLM.from_pretrained(run).save_pretrained(folder, max_shard_size=size)
    return folder


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return trained_run(run).model(torch.device("cpu")).state_dict()


@pytest.mark.parametrize("size", ["50GB", "20KB"])
def test_a_saved_model_is_a_source(text: str, first: Path, tmp_path: Path, size: str) -> None:
    saved = saved_model(first, tmp_path / "saved", size)
    assert (saved / "model.safetensors.index.json").exists() == (size == "20KB")
    command = ("train", "A^3B", "--data", text, *HOW, "--lr", "1e-12")
    bare = run_cli(*command, "--from", str(saved), "--tokenizer", str(first),
                   "-o", str(tmp_path / "bare"))  # fmt: skip
    assert bare.status == 0, bare.err
    assert "each id is taken to be the same one" in bare.err
    shutil.copy(first / "tokenizer.json", saved)
    done = run_cli(*command, "--from", str(saved), "-o", str(tmp_path / "run"))
    assert done.status == 0, done.err
    assert "of whose training not all is known" in done.err
    theirs = weights_of(first)
    for folder in ("bare", "run"):  # which take the weights and learn next to nothing
        for name, weight in weights_of(tmp_path / folder).items():
            torch.testing.assert_close(weight, theirs[name], rtol=0, atol=1e-7)
    # FLOPs of a whole training are not known, also of what begins with such a run.
    later = run_cli(*command, "--from", str(tmp_path / "run"), "-o", str(tmp_path / "later"))
    assert later.status == 0, later.err
    for run in ("run", "later"):
        verdict = run_cli("eval", str(tmp_path / run), "--baseline", str(first))
        assert verdict.status != 0
        assert "error[no-history]: the run began with a saved model" in verdict.err


@pytest.mark.parametrize("untied", [(), ("--untied-embedding",)])
def test_rows_of_another_tokenizer_are_taken_by_token(
    text: str, first: Path, tmp_path: Path, untied: tuple[str, ...]
) -> None:
    """A token keeps the row that it has in the source, wherever it stands now."""
    words = json.loads((first / "tokenizer.json").read_text())
    vocab, merges = words["model"]["vocab"], words["model"]["merges"]
    names = list(vocab)
    dropped, kept = names[-6:], names[:-6]
    own = {name: row for row, name in enumerate([*kept[::-1], "q\u0120"])}
    ends = {token["content"] for token in words["added_tokens"]}
    words["model"]["vocab"] = own
    pairs = [pair if isinstance(pair, list) else pair.split() for pair in merges]
    words["model"]["merges"] = [
        pair for pair in pairs if not {*pair, "".join(pair)} & {*dropped}
    ] + [["q", "\u0120"]]  # fmt: skip
    for token in words["added_tokens"]:
        token["id"] = own[token["content"]]
    file = tmp_path / "other.json"
    file.write_text(json.dumps(words))
    command = ("train", "A^3B", "--data", text, *HOW, "--lr", "1e-12", *untied)
    command = (*command, "--from", str(first), "--tokenizer", str(file), "-o", str(tmp_path / "r"))
    done = run_cli(*command)
    assert done.status == 0, done.err
    count = len(kept)
    assert f"another tokenizer: {count} of {count + 1} tokens are the source's too" in done.err
    assert f"of embedding.weight: {count} of {count + 1} rows taken" in done.err
    theirs, ours = weights_of(first), weights_of(tmp_path / "r")
    for name in ("embedding.weight", *(["head.weight"] if untied else [])):
        found = ours[name]
        assert len(found) == len(own)
        for token in kept:
            expected = theirs["embedding.weight"][vocab[token]]
            torch.testing.assert_close(found[own[token]], expected, rtol=0, atol=1e-7)
        assert not torch.allclose(found[own["q\u0120"]], theirs["embedding.weight"][own["q\u0120"]])
    assert ends <= own.keys()
    # The same command knows its run again, and goes on without its source.
    assert "this run is finished" in run_cli(*command).err
    (tmp_path / "r" / "result.json").unlink()
    gone = first.rename(tmp_path / "gone")
    again = run_cli(*command)
    gone.rename(first)
    assert again.status == 0, again.err


def test_tokens_of_other_kinds_of_tokenizer_are_known_by_their_bytes() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    bpe = tokenizers.models.BPE(
        vocab={"\u2581the": 0, "<0x41>": 1, "cat": 2, "<s>": 3}, merges=[], byte_fallback=True
    )
    spaced = tokenizers.Tokenizer(bpe)
    spaced.decoder = tokenizers.decoders.Sequence([tokenizers.decoders.ByteFallback()])
    spaced.add_special_tokens(["<s>"])
    level = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab={"\u0120the": 0, "A": 1, "\u010a": 2}, merges=[])
    )
    level.decoder = tokenizers.decoders.ByteLevel()
    one, other = (tokenizer_from_json(each.to_str()).token_keys for each in (spaced, level))
    assert one == {(False, b" the"): 0, (False, b"A"): 1, (False, b"cat"): 2, (True, b"<s>"): 3}
    assert other == {(False, b" the"): 0, (False, b"A"): 1, (False, b"\n"): 2}


def test_a_source_of_unknown_tokens_and_another_size_keeps_only_its_blocks(
    text: str, first: Path, tmp_path: Path
) -> None:
    saved = saved_model(first, tmp_path / "saved")
    words = tmp_path / "words.json"
    train_tokenizer([Path(text.removeprefix("text:")).read_text()], 290).save(words)
    command = ("train", "A^3B", "--data", text, *HOW, "--from", str(saved))
    done = run_cli(*command, "--tokenizer", str(words), "--vocab-size", "310",
                   "-o", str(tmp_path / "r"))  # fmt: skip
    assert done.status == 0, done.err
    assert "fresh: embedding" in done.err
    assert "the source does not say which tokens it has: all start fresh" in done.err


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
