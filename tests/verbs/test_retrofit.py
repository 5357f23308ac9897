"""`rinsc retrofit`, against a Llama of transformers whose layers a plain loop runs again."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import rinsc
from rinsc.data.corpora import load_corpus
from rinsc.data.tokenizer import train_tokenizer
from rinsc.errors import RinscError
from rinsc.progress import SilentProgress
from rinsc.variants.retrofit import retrofit_plan
from rinsc.verbs.import_model import import_model
from rinsc.verbs.retrofit import Retrofitted, retrofit
from tests.cli.command_line import run_cli
from tests.sources import checkpoints
from tests.sources.checkpoints import DIMENSIONS

LAYERS = 6
IDS = torch.arange(30)[None] % 67


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of six layers of transformers, and the same imported."""
    folder = tmp_path_factory.mktemp("source")
    checkpoints.saved(folder / "hf", LlamaConfig(**{**DIMENSIONS, "num_hidden_layers": LAYERS}))
    import_model(folder / "hf", folder / "base", progress=SilentProgress())
    return folder


def written(source: Path, output: Path, *arguments: Any, **more: Any) -> Retrofitted:
    return retrofit(source / "base", output, *arguments, **more, progress=SilentProgress())


def loop(source: Path, order: list[int]) -> torch.Tensor:
    """The logits of the class of transformers that runs its layers in this order."""
    model: Any = LlamaForCausalLM.from_pretrained(source / "hf")
    model.model.layers = nn.ModuleList([model.model.layers[index] for index in order])
    model.config.num_hidden_layers = len(order)
    with torch.no_grad():
        logits: torch.Tensor = model(IDS, use_cache=False).logits
    return logits


def logits(folder: Path, **more: Any) -> torch.Tensor:
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        result: torch.Tensor = model(IDS, **more).logits
    return result


@pytest.mark.parametrize(
    ("signature", "ranges", "order"),
    [
        ("P A^2 C", {"P": (0, 1), "A": (2, 3), "C": (4, 5)}, [0, 1, 2, 3, 2, 3, 4, 5]),
        ("P A^2 C", None, [0, 1, 2, 3, 2, 3, 4, 5]),
        ("A^3B", {"A": (0, 0), "B": (1, 5)}, [0, 0, 0, 1, 2, 3, 4, 5]),
        ("(A^2B)^2", {"A": (0, 3), "B": (4, 5)}, [0, 1, 2, 3, 0, 1, 2, 3, 4, 5] * 2),
        ("C P^2", {"C": (0, 4), "P": (5, 5)}, [0, 1, 2, 3, 4, 5, 5]),
    ],
)
def test_the_layers_are_those_of_a_plain_loop(
    source: Path, tmp_path: Path, signature: str, ranges: Any, order: list[int]
) -> None:
    done = written(source, tmp_path / "looped", signature, layers=ranges)
    assert done.gap == 0.0
    torch.testing.assert_close(logits(tmp_path / "looped"), loop(source, order), atol=1e-4, rtol=0)
    once = logits(tmp_path / "looped", rounds=1)
    torch.testing.assert_close(once, loop(source, list(range(LAYERS))), atol=1e-4, rtol=0)
    assert (loop(source, order) - once).abs().max() > 0.01  # so that the first line says something


def test_no_weight_is_copied_or_changed(source: Path, tmp_path: Path) -> None:
    written(source, tmp_path / "looped", "P A^2 C")
    before = load_file(source / "base" / "model.safetensors")
    after = load_file(tmp_path / "looped" / "model.safetensors")
    assert len(before) == len(after)
    for block, first in (("P", 0), ("A", 2), ("C", 4)):
        for index in range(2):
            for name in ("query.weight", "down.weight", "mlp_norm.weight"):
                theirs = before[f"model.A.{first + index}.{name}"]
                assert torch.equal(after[f"model.{block}.{index}.{name}"], theirs)


def test_blocks_as_rys_writes_them(source: Path, tmp_path: Path) -> None:
    done = written(source, tmp_path / "looped", blocks=[(1, 3), (3, 4)])
    assert done.spec.text == "AB[2]^2CD[2]".replace("A", "A[1]").replace("C", "C[1]^2")
    order = [0, 1, 2, 1, 2, 3, 3, 4, 5]
    torch.testing.assert_close(logits(tmp_path / "looped"), loop(source, order), atol=1e-4, rtol=0)


def test_dropped_layers_are_left_out(source: Path, tmp_path: Path) -> None:
    done = written(source, tmp_path / "looped", "P A^2", drop=[(1, 2), (5, 5)])
    assert done.gap is None
    torch.testing.assert_close(
        logits(tmp_path / "looped"), loop(source, [0, 3, 4, 4]), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize(
    ("init", "groups"),
    [("slice", [[0], [3], [5]]), ("lower", [[0], [1], [2]]), ("average", [[0, 3], [1, 4], [2, 5]])],
)
def test_tied_layers_start_as_told(
    source: Path, tmp_path: Path, init: str, groups: list[list[int]]
) -> None:
    written(source, tmp_path / "looped", "A[3]^2", layers={"A": (0, 5)}, init=init)
    before = load_file(source / "base" / "model.safetensors")
    after = load_file(tmp_path / "looped" / "model.safetensors")
    for index, group in enumerate(groups):
        mean = sum(before[f"model.A.{k}.up.weight"] for k in group) / len(group)
        torch.testing.assert_close(after[f"model.A.{index}.up.weight"], mean)


def test_adapters_start_as_the_identity(source: Path, tmp_path: Path) -> None:
    word = "P A^2{adapter=lora(2), inject=gate} C"
    assert written(source, tmp_path / "looped", word).gap == 0.0
    with pytest.raises(RinscError, match="not-the-source"):
        written(source, tmp_path / "other", "P A^2{inject=add} C")
    assert not (tmp_path / "other").exists()


def test_a_model_in_bf16_stays_so(tmp_path: Path) -> None:
    _, _, model = checkpoints.saved(tmp_path / "hf", LlamaConfig(**DIMENSIONS))
    model.to(torch.bfloat16).save_pretrained(tmp_path / "hf")
    import_model(tmp_path / "hf", tmp_path / "base", progress=SilentProgress())
    done = written(tmp_path, tmp_path / "looped", "A^2{adapter=scale}B")
    assert done.gap == 0.0
    tensors = load_file(tmp_path / "looped" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}


RANGE = st.tuples(st.integers(0, 7), st.integers(0, 7))


@given(st.fixed_dictionaries({"P": RANGE, "A": RANGE, "C": RANGE}))
def test_ranges_are_taken_where_they_follow_each_other(ranges: dict[str, tuple[int, int]]) -> None:
    spec = rinsc.model_spec("A", preset="tiny", layers=8)
    covered = [index for first, last in ranges.values() for index in range(first, last + 1)]
    fits = covered == list(range(8)) and all(first <= last for first, last in ranges.values())
    if not fits:
        with pytest.raises(RinscError, match="bad-range"):
            retrofit_plan(spec, "P A^2 C", ranges=ranges)
        return
    plan = retrofit_plan(spec, "P A^2 C", ranges=ranges)
    assert [k for own in plan.layers.values() for group in own for k in group] == covered


def test_what_differs_along_the_stack_stays_with_its_layer() -> None:
    settings = {"decoder": {"pattern": "lllg", "window": 7}}
    spec = rinsc.model_spec("A", preset="tiny", layers=8, kind="decoder", settings=settings)
    plan = retrofit_plan(spec, "P A^2", drop=[(2, 2)])
    assert plan.spec.settings["decoder"]["pattern"] == "llglllg"
    assert retrofit_plan(spec, "P A^2").spec.settings == spec.settings
    with pytest.raises(RinscError, match="layers-differ"):
        retrofit_plan(spec, "A[3]^2 B", ranges={"A": (0, 5), "B": (6, 7)}, init="average")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["P A^2 C", "--layers", "P=0..2,A=2..3,C=4..5"], "overlaps P"),
        (["P A^2 C", "--layers", "P=0..1,A=3..3,C=4..5"], "layer 2 is before A in no block"),
        (["P A^2 C", "--layers", "P=0..1,A=3..2,C=4..5"], "runs backwards"),
        (["P A^2 C", "--layers", "P=0..1,A=2..3,C=4..6"], "beyond layer 5"),
        (["P A^2 C", "--layers", "P=0..1,A=2..5"], "C has no layers"),
        (["P A^2", "--layers", "P=0..1,A=2..3,C=4..5"], "C is no block"),
        (["P A^2", "--layers", "P=0..1,A=2..3"], "layers 4 to 5 are after A in no block"),
        (["P A^2", "--layers", "P=0-1"], "does not take"),
        (["A[3]^2", "--layers", "A=0..5"], "6 layers become 3"),
        (["A[4]^2", "--layers", "A=0..5", "--init", "average"], "no whole number of rounds"),
        (["A[3]^2", "--layers", "A=0..5", "--init", "svd"], "no way to start"),
        (["A^2@2"], "has a degree"),
        (["A^2", "--drop", "0..5"], "no layer is left"),
        (["A^2", "--drop", "4..6"], "cannot be dropped"),
        (["A^2", "--blocks", "1,3"], "so does the signature"),
        (["--blocks", "3,1"], "no layers of 6"),
        (["--blocks", "3"], "does not take"),
        ([], "there is no signature"),
    ],
)
def test_mistakes_are_one_error_and_nothing_is_written(
    source: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    output = tmp_path / "looped"
    done = run_cli("retrofit", str(source / "base"), *arguments, "-o", str(output))
    assert done.status != 0
    assert message in " ".join(done.err.split())
    assert "Traceback" not in done.err
    assert not output.exists()


def test_the_source_is_never_written_over(source: Path) -> None:
    base = str(source / "base")
    done = run_cli("retrofit", base, "A^2", "-o", base)
    assert done.status != 0
    assert "would be written over" in done.err
    recursive = rinsc.model_spec("A^2B", preset="tiny")
    with pytest.raises(RinscError, match="not-a-plain-stack"):
        retrofit_plan(recursive, "AB")


def test_the_command_says_what_it_did(source: Path, tmp_path: Path) -> None:
    arguments = ("retrofit", str(source / "base"), "P A^2 C", "-o", str(tmp_path / "looped"))
    shown = run_cli(*arguments)
    assert shown.status == 0, shown.err
    assert "one round is the source: the same logits" in shown.out
    facts = json.loads(run_cli(*arguments, "--json").out)
    assert facts["ranges"]["A"] == [2, 3]
    costs = facts["costs"]
    assert costs["rounds 2"]["executed_layers"] == 8
    assert costs["one round"] == costs["source"]


PAGE = (Path(__file__).parents[2] / "docs" / "retrofit.md").read_text(encoding="utf-8")


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    texts = [play.text[:9000] for play in load_corpus("plays").train[:12]]
    tokenizer = train_tokenizer(texts, 300)
    more = {"num_hidden_layers": LAYERS, "vocab_size": tokenizer.vocab_size}
    checkpoints.saved(tmp_path / "llama", LlamaConfig(**{**DIMENSIONS, **more}))
    tokenizer.save_folder(tmp_path / "llama", DIMENSIONS["max_position_embeddings"])
    (tmp_path / "corpus").mkdir()
    for number, text in enumerate(texts):
        (tmp_path / "corpus" / f"{number}.txt").write_text(text, encoding="utf-8")
    commands = re.findall(r"^\$ rinsc (.+)$", PAGE, re.MULTILINE)
    assert len(commands) == 8
    for command in commands:
        small = ("--batch", "2") if command.startswith("train") else ()
        done = run_cli(*shlex.split(command), *small)
        assert done.status == 0, done.err
    assert len(json.loads((tmp_path / "scan.json").read_text())["ranges"]) == 6 + 5 + 4
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        for example in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
            exec(compile(example, "retrofit.md", "exec"), {})
    assert output.getvalue().splitlines() == ["True", "False", "A[2]B[2]^2C[2] 0.0"]
