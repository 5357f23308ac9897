"""Exported folders on a machine without rinsc give what our own class gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from rinsc import draw_rounds
from rinsc.backends.hf import RinscConfig, RinscForCausalLM, causal_lm
from rinsc.backends.hf.facts_source import facts_source
from rinsc.backends.hf.folder import standalone_source, write_standalone_folder
from rinsc.backends.torch import emit_source
from rinsc.cost import training_flops
from rinsc.layers import weight_shapes
from rinsc.spec import ModelSpec
from rinsc.spec.model import spec_keys
from tests.hf.models import CAUSAL, CLOSE, ids, pair
from tests.hf.test_hosted import RICH, causal
from tests.hf.without_rinsc import outputs
from tests.onnx.models import small_spec
from tests.specs import specs

ROOT = Path(__file__).parents[2]
CASES = {
    "plain": small_spec("(A^3)B"),
    "rich": small_spec(RICH),
    "nested": small_spec(
        "P(A^2{adapter=lora(3), adapter_by=count}B^2{adapter=shared(2)})^3{inject=add, init=noise}"
    ),
    "window": small_spec("P[1]A[2]^4{inject=concat, grad=2}B[1]", tied_embedding=False),
    "gpt": small_spec("A^3{kv=last}B", kind="gpt"),
    "huginn": small_spec("P[1] R[2]^3{inject=concat, init=noise} C[1]", kind="huginn"),
    "ouro": small_spec("A^2B", kind="ouro"),
    "unrepeated": small_spec("AB"),
    "drawn": small_spec("A^5{skip=0.5}B^2{inject=add, init=noise, sample=uniform(1, 4)}"),
}


def run_without_rinsc(folder: Path, script: Path, *arguments: str) -> None:
    environment = {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0", "HF_MODULES_CACHE": str(folder / "hf")}
    done = subprocess.run(
        [sys.executable, "-I", str(script), *arguments],
        env=os.environ | environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def given_of(spec: ModelSpec, model: Any) -> dict[str, Any]:
    padded, mask = ids(spec, 2, 7), torch.ones(2, 7, dtype=torch.long)
    mask[1, :3] = 0
    dials = [loop.name for loop in model.config.graph.dials()]
    rounds: list[Any] = [None, 1, 2, 5, {dials[-1]: 3}] if dials else [None]
    return {"ids": ids(spec, 2, 6), "padded": padded, "mask": mask, "rounds": rounds}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each case, and what a process without rinsc made of it."""
    place = tmp_path_factory.mktemp("cases")
    for name, spec in CASES.items():
        model, _ = pair(spec)
        write_standalone_folder(model, place / "all" / name, {})
        torch.save(given_of(spec, model), place / "all" / name / "given.pt")
    run_without_rinsc(place, ROOT / "tests/hf/without_rinsc.py", str(place / "all"))
    return place / "all"


@pytest.mark.parametrize("case", CASES)
def test_logits_tokens_gradients_and_counts_are_our_own(folder: Path, case: str) -> None:
    model, _ = pair(CASES[case])
    found = torch.load(folder / case / "found.pt")
    expected = outputs(model, given_of(CASES[case], model))
    assert found.pop("again")
    errors = found.pop("errors")
    found.pop("trained", None)
    found.pop("resized", None)
    assert torch.equal(found.pop("one graph", expected["logits None"]), expected["logits None"])
    assert torch.equal(found.pop("auto"), expected["features"])
    assert len(errors) == 3
    assert all("rounds" in error for error in errors)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(found[name], value), name
        else:
            assert found[name] == value, name


def test_the_folder_draws_rounds_in_training(folder: Path) -> None:
    steps = range(2, 10)  # two passes were for the gradients
    expected = [draw_rounds(CASES["drawn"], 0, step)["A"] for step in steps]
    assert torch.load(folder / "drawn" / "found.pt")["visits"] == expected
    assert len(set(expected)) > 2


def test_sabotage_a_changed_weight_is_seen(folder: Path) -> None:
    model, _ = pair(CASES["plain"])
    with torch.no_grad():
        model.model.get_parameter("A.0.query.weight").mul_(1.1)
    found = torch.load(folder / "plain" / "found.pt")
    expected = outputs(model, given_of(CASES["plain"], model))
    assert not torch.equal(found["logits None"], expected["logits None"])


@pytest.mark.parametrize("case", ["rich", "unrepeated"])
def test_the_folder_holds_each_tensor_once(folder: Path, case: str) -> None:
    names = {path.name for path in (folder / case).iterdir() if path.is_file()}
    assert names >= {"config.json", "model.safetensors", "generation_config.json"}
    assert names >= {"modeling_rinsc.py"}
    again = {path.name for path in (folder / case / "again").iterdir()}
    assert again == names - {"given.pt", "found.pt", "checksums.json"}
    with safe_open(folder / case / "model.safetensors", framework="pt") as file:
        stored = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    expected = weight_shapes(causal_lm(CASES[case]).model.graph)
    assert stored == {f"model.{name}": shape for name, shape in expected.items()}


def test_where_rinsc_is_the_folder_is_our_own_class(folder: Path, tmp_path: Path) -> None:
    """And what that class saves names no code that is not there."""
    ours: Any = AutoModelForCausalLM.from_pretrained(folder / "rich")
    assert type(ours) is RinscForCausalLM
    model, _ = pair(CASES["rich"])
    given = ids(CASES["rich"], 2, 6)
    assert torch.equal(ours(given).logits, model(given).logits)
    ours.save_pretrained(tmp_path)
    assert "auto_map" not in json.loads((tmp_path / "config.json").read_text())
    assert not (tmp_path / "modeling_rinsc.py").exists()


def test_code_and_config_of_two_models_are_refused(folder: Path) -> None:
    assert "another model than this code" in torch.load(folder / "mixed" / "refused.pt")


@pytest.mark.parametrize("case", ["plain", "window"])
def test_another_vocabulary_is_the_same_code(folder: Path, case: str) -> None:
    """Tied and not: what was saved there is a model here too, and of the spec of that size."""
    model, _ = pair(CASES[case])
    given = given_of(CASES[case], model)["ids"]
    found = torch.load(folder / case / "found.pt")["resized"]
    size = CASES[case].vocab_size + 11
    assert found["equal"]
    assert found["size"] == size
    ours: Any = AutoModelForCausalLM.from_pretrained(folder / case / "resized")
    assert type(ours) is RinscForCausalLM
    assert torch.equal(ours(given).logits, found["logits"])
    old = model(given).logits
    assert torch.allclose(found["logits"][..., : old.shape[-1]], old, atol=CLOSE)
    spec = replace(CASES[case], vocab_size=size)
    assert ours.config.model_spec == spec
    flops = causal_lm(spec).floating_point_ops({"input_ids": given})
    assert found["flops"] == flops


def test_the_trainer_trains_it(folder: Path) -> None:
    model, _ = pair(CASES["plain"])
    given = given_of(CASES["plain"], model)["ids"]
    found = torch.load(folder / "plain" / "found.pt")["trained"]
    assert found["loss"] == pytest.approx(model(given, labels=given).loss.item())
    assert found["moved"]


@settings(max_examples=12)
@given(spec=specs(options=True, kinds=CAUSAL, max_visits=6).filter(causal))
def test_the_file_is_clean_and_formatted(spec: ModelSpec) -> None:
    config = RinscConfig(spec=spec_keys(spec))
    emitted = emit_source(config.graph, hosted=True).split("\n")
    assume(max(map(len, emitted)) <= 100)  # deep nests have a long sum of visits
    source = standalone_source(config)
    assert "rinsc." not in source.replace("modeling_rinsc.", "")
    for tool in (["check"], ["format", "--check"]):
        command = [
            sys.executable,
            "-m",
            "ruff",
            *tool,
            "--stdin-filename",
            "modeling_rinsc.py",
            "-",
        ]
        done = subprocess.run(
            command, input=source, cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


@settings(max_examples=25)
@given(
    spec=specs(options=True, kinds=CAUSAL, max_visits=8).filter(causal),
    rounds=st.integers(1, 4),
    seq=st.integers(1, 15),
)
def test_the_sums_are_those_of_the_graph(spec: ModelSpec, rounds: int, seq: int) -> None:
    config = RinscConfig(spec=spec_keys(spec))
    space: dict[str, Any] = {}
    header = "from __future__ import annotations\nfrom collections.abc import Mapping\n"
    header += "from typing import Any, Literal, TypeAlias\n"
    exec(header + facts_source(config), space)
    facts = space["ModelFacts"]()
    facts.spec = dict(config.spec or {})
    counts = config.rounds_of(rounds if any(config.graph.dials()) else None)
    for method in ("executed_layers", "cache_slots"):
        assert getattr(facts, method)(counts) == getattr(config, method)(counts)
    assert facts.step_flops(3, seq, counts) == config.step_flops(3, seq, counts)
    if "grad=" not in spec.text:
        assert facts.step_flops(3, seq, counts) == training_flops(
            spec, seq, batch=3, rounds=counts or None
        )
    assert facts.dimensions() == config.dimensions()
