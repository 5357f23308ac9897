"""The emitted module: what runs is what is shown, and it computes what a plain loop computes."""

from __future__ import annotations

import copy
import dataclasses
import gc
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rinsc.backends.hf import causal_lm
from rinsc.backends.torch import emit_source, load_weights, save_weights, to_torch
from rinsc.backends.torch.decoding import cached_module
from rinsc.errors import CheckpointError, GraphError, LoweringError, SpecError
from rinsc.graph import BlockGraph, Loop, build_graph, unroll
from rinsc.layers import LayerKind, layer_kind, llama, trace_programs, weight_shapes
from rinsc.layers.mixing import rotary_sides
from rinsc.ops import Linear, RMSNorm
from rinsc.ops.program import Builder, Value
from rinsc.spec import ModelSpec, model_spec
from rinsc.syntax import parse
from rinsc.syntax.normal import stack_of
from rinsc.syntax.tree import MAX_LOOP_DEPTH
from rinsc.verification import random_input
from tests.kinds import KINDS
from tests.onnx.models import lively_model, small_spec
from tests.specs import specs


def plain_loop(model: Any, graph: BlockGraph, x: torch.Tensor, rounds: Any) -> torch.Tensor:
    """The schedule, interpreted node by node."""
    sides = [model.cos[: x.shape[1]], model.sin[: x.shape[1]]] if hasattr(model, "cos") else []
    for step in graph.steps():
        if isinstance(step, Loop):
            for _ in range(step.rounds if rounds is None else rounds[step.name]):
                x = plain_loop(model, step.body, x, rounds)
        else:
            for layer in model.get_submodule(step.block).children():
                x = layer(x, *sides)
    return x


def expected_logits(model: Any, input_ids: torch.Tensor, rounds: Any) -> Any:
    x = model.embedding(input_ids)
    if hasattr(model, "positions"):
        x = x + model.positions.weight[: input_ids.shape[1]]
    x = model.final_norm(plain_loop(model, model.graph, x, rounds))
    return model.head(x) if hasattr(model, "head") else x @ model.embedding.weight.T


@given(spec=specs(kinds=("llama", "gpt")), seed=st.integers(0, 99), data=st.data())
def test_the_module_equals_a_plain_loop(spec: ModelSpec, seed: int, data: st.DataObject) -> None:
    model = lively_model(spec, seed)
    names = [loop.name for loop in model.graph.loops()]
    chosen = st.fixed_dictionaries({name: st.integers(1, 3) for name in names})
    rounds = data.draw(st.one_of(st.none(), chosen)) if names else None
    seq = data.draw(st.integers(1, spec.context))
    input_ids = torch.randint(spec.vocab_size, (2, seq))
    with torch.no_grad():
        torch.testing.assert_close(
            model(input_ids, rounds), expected_logits(model, input_ids, rounds)
        )


@given(spec=specs(options=True))
def test_rolled_and_unrolled_give_equal_gradients(spec: ModelSpec) -> None:
    rolled = to_torch(spec).eval()  # in training each draws for itself
    flat = to_torch(unroll(build_graph(spec))).eval()
    flat.load_state_dict(rolled.state_dict())
    numbers = random_input(spec, batch=1, seq=11)
    for model in (rolled, flat):
        model(numbers).logsumexp(-1).sum().backward()
    for ours, theirs in zip(rolled.parameters(), flat.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad)


def test_a_block_visited_too_often_is_seen() -> None:
    spec = model_spec("A^3B", preset="tiny")
    model = lively_model(spec)
    with torch.no_grad():
        input_ids = torch.arange(9)[None]
        assert (model(input_ids, 4) - expected_logits(model, input_ids, None)).abs().max() > 1e-3


def test_rounds_by_name_reach_their_repeat() -> None:
    model = to_torch(model_spec("A^2B^2", preset="tiny"))
    flat = to_torch(unroll(build_graph(model_spec("A^2B^3", preset="tiny"))))
    flat.load_state_dict(model.state_dict())
    input_ids = torch.arange(9)[None]
    torch.testing.assert_close(model(input_ids, {"B": 3}), flat(input_ids))


@pytest.mark.parametrize(
    "rounds", [0, -1, {"C": 2}, {"A": 0}, 10**30, 1025, True, 2.5, "x", {"A": 2.0}]
)
def test_rounds_that_do_not_fit_are_refused(rounds: object) -> None:
    """By the emitted source, which stands alone, as by the module around it."""
    model, ids = to_torch(model_spec("A^2B", preset="tiny")), torch.zeros(1, 2, dtype=torch.long)
    with pytest.raises(ValueError, match="do not fit"):
        model.forward(ids, rounds)
    with pytest.raises(GraphError):
        model(ids, rounds)


def test_nested_rounds_that_multiply_to_too_many_are_refused() -> None:
    model = to_torch(model_spec("(((A^2)^2)^2B)^2", preset="tiny"))
    with pytest.raises(ValueError, match="visits of blocks, more than 65536"):
        model.forward(torch.zeros(1, 2, dtype=torch.long), 1024)


def test_rounds_without_a_repeat_are_refused() -> None:
    with pytest.raises(ValueError, match="without a repeat"):
        to_torch(model_spec("AB", preset="tiny")).forward(torch.zeros(1, 2, dtype=torch.long), 2)


def test_a_sequence_beyond_the_context_is_refused() -> None:
    with pytest.raises(ValueError, match="exceed the context of 128"):
        to_torch(model_spec("AB", preset="tiny"))(torch.zeros(1, 129, dtype=torch.long))


LONG = "A^2B^2C^2D^2E^2F^2" * 2 + "GHIJKLMNOP" * 6  # many repeats, a long name


OPTIONS = [
    "A{tie=attention, each=2}(B^3{adapter=lora(3)}C{reverse})^2{inject=concat, init=noise, grad=1}",
    "A{tie=mlp}^3{adapter=gate, adapter_by=count}B{kind=gpt}",
    "P R^4{inject=gate, init=learned} C{kind=ouro, tie=attention, each=2, reverse}",
    "A^3{kv=first}(BC^2{kv=last})^2",
    "A^9{skip=0.25}(B^2{sample=uniform(1, 5)}C^2)^3{inject=add, init=noise}",
    "".join(f"{name}^2{{sample=poisson_lognormal(2.5, 0.5)}}" for name in "ABCDEFGHIJKLMNOP"),
    "A^4{sample=choice(1, 2, 4), kv=first}",
]


@pytest.mark.parametrize(
    ("text", "kind"),
    [(text, "llama") for text in ("AB", "((A^2)B)^2C", "AAB@2", "ABA", LONG, *OPTIONS)]
    + [("A^3B", kind) for kind in sorted(KINDS)],
)
def test_the_source_is_formatted_and_clean(text: str, kind: str, tmp_path: Path) -> None:
    layers = stack_of(parse(text), each=2)
    spec = model_spec(text, preset="tiny", kind=kind, layers=layers, tied_embedding=kind == "gpt")
    sources = [emit_source(build_graph(spec))]
    if layer_kind(kind).causal:
        sources.append(emit_source(build_graph(spec), cached=True))
    path = tmp_path
    for index, source in enumerate(sources):
        (path / f"model_{index}.py").write_text(source)
    ruff = [sys.executable, "-m", "ruff"]
    options = ["--isolated", "--line-length", "100", str(path)]
    subprocess.run([*ruff, "format", "--check", *options], check=True)
    rules = "E,F,I,N,UP,B,SIM,RET,C4,PIE"
    subprocess.run([*ruff, "check", "--select", rules, "--ignore", "N812", *options], check=True)


@given(spec=specs(options=True))
def test_weights_are_called_and_shaped_as_the_layers_say(spec: ModelSpec) -> None:
    held = {name: tuple(t.shape) for name, t in to_torch(spec, device="meta").state_dict().items()}
    assert held == weight_shapes(build_graph(spec))


def test_the_deepest_nesting_runs() -> None:
    text = "A[1]"
    for _ in range(MAX_LOOP_DEPTH):
        text = f"({text})^1"
    model = to_torch(model_spec(text, preset="tiny"))
    assert model(torch.arange(4)[None], 1).shape == (1, 4, 512)


def test_an_operation_may_not_take_a_name_of_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    def layer(b: Builder, x: Value, sides: dict[str, Value], spec: ModelSpec) -> Value:
        return b(RMSNorm(1e-5), x, name="train")

    def head(b: Builder, x: Value, spec: ModelSpec) -> Value:
        return b(Linear(spec.vocab_size), x, name="embedding")

    for kind in (
        LayerKind(llama.embed, layer, llama.head, rotary_sides),
        LayerKind(llama.embed, llama.layer, head, rotary_sides),
    ):
        monkeypatch.setattr(llama, "KIND", kind)
        trace_programs.cache_clear()
        with pytest.raises(LoweringError, match="name-taken"):
            to_torch(model_spec("AB", preset="tiny"))
    monkeypatch.undo()
    trace_programs.cache_clear()


def test_text_is_no_spec() -> None:
    text: Any = "(A^3)B"
    with pytest.raises(SpecError, match="not-a-spec"):
        to_torch(text)


def test_the_file_runs_alone_and_loads_the_same_weights(tmp_path: Path) -> None:
    spec = model_spec("(A^2)B", preset="tiny")
    model = to_torch(spec)
    (tmp_path / "model.py").write_text(model.source)
    save_weights(model, tmp_path / "weights.safetensors")
    torch.save(model(torch.arange(7)[None], 3), tmp_path / "expected.pt")
    script = """
import sys, torch
from safetensors.torch import load_file
from model import Model
assert not [name for name in sys.modules if name.startswith("rinsc")]
model = Model()
model.load_state_dict(load_file("weights.safetensors"))
torch.testing.assert_close(model(torch.arange(7)[None], 3), torch.load("expected.pt"))
"""
    environment = {**os.environ, "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}  # as where rinsc is not
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path, env=environment)


def test_a_traceback_shows_the_emitted_line() -> None:
    model = to_torch(model_spec("AB", preset="tiny"))
    with pytest.raises(IndexError) as caught:
        model(torch.full((1, 2), 10**6))
    shown = [str(entry.statement) for entry in caught.traceback]
    assert any("self.embedding(input_ids)" in line for line in shown)


def test_equal_weights_make_equal_files(tmp_path: Path) -> None:
    model = to_torch(model_spec("A^2B", preset="tiny"))
    for name in ("first", "second"):
        save_weights(model, tmp_path / name)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_weights_of_other_origin_load_where_they_fit(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model: Any = to_torch(model_spec("A^2B", preset="tiny"))
    other: Any = to_torch(model_spec("A^2B", preset="tiny"))
    save_file(model.state_dict(), tmp_path / "weights")
    load_weights(other, tmp_path / "weights")
    assert torch.equal(other.embedding.weight, model.embedding.weight)


def test_one_tensor_per_storage() -> None:
    state = to_torch(model_spec("A^3B", preset="tiny")).state_dict()
    assert len({tensor.data_ptr() for tensor in state.values()}) == len(state)
    assert {name.split(".")[0] for name in state} == {"embedding", "A", "B", "final_norm"}


def test_a_copy_keeps_what_it_was_made_from() -> None:
    model = to_torch(model_spec("A^2B", preset="tiny"))
    twin = copy.deepcopy(model)
    assert twin.spec == model.spec
    assert twin.source == model.source


def test_initialisation_follows_the_executed_depth() -> None:
    torch.manual_seed(3)
    model: Any = to_torch(model_spec("A^3B", preset="tiny", width=128, mlp_width=512))
    depth = 3 * 6 + 6
    assert model.A[0].up.weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert model.A[0].down.weight.std().item() == pytest.approx(0.02 / (2 * depth) ** 0.5, rel=0.03)
    assert (model.A[0].mlp_norm.weight == 1).all()


def test_a_model_beyond_memory_is_refused_before_it_is_built() -> None:
    with pytest.raises(LoweringError) as caught:
        to_torch(model_spec("A", preset="1b", width=1 << 20, heads=1 << 12, kv_heads=1 << 12))
    assert caught.value.code == "does-not-fit"


def test_the_wrong_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(to_torch(model_spec("A^2B", preset="tiny")), path)
    other = to_torch(model_spec("AB", preset="tiny"))
    with pytest.raises(Exception, match="weights-of-another-model"):
        load_weights(other, path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"norm_eps": 1e-3}, ["norm_eps is 0.001, not 1e-05"]),
        ({"rope_theta": 5e5, "context": 64}, ["rope_theta is 500000.0", "context is 64, not 128"]),
        ({"width": 32}, ["width is 32, not 64", "'A.0.down.weight'"]),
        ({"tied_embedding": False}, ["tied_embedding is False, not True", "'head.weight'"]),
        ({"signature": parse("A^3B")}, ["visited in another way: 'A^3B', not 'A^2B'"]),
        ({"signature": parse("A^2{skip=0.5}B")}, ["options", "'A^2{skip=0.5}B', not 'A^2B'"]),
    ],
)
def test_what_differs_from_the_weights_is_named(
    tmp_path: Path, change: dict[str, object], named: list[str]
) -> None:
    spec = model_spec("A^2B", preset="tiny")
    path = tmp_path / "weights.safetensors"
    save_weights(to_torch(spec), path)
    other = to_torch(dataclasses.replace(spec, **change))  # type: ignore[arg-type]
    with pytest.raises(CheckpointError) as caught:
        load_weights(other, path)
    for words in named:
        assert words in caught.value.message
    assert "schedules" not in caught.value.message


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_a_weights_file_cut_short_is_refused(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "weights.safetensors"
    model = to_torch(model_spec("A^2B", preset="tiny"))
    save_weights(model, path)
    path.write_bytes(path.read_bytes()[:kept])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(Exception, match="weights-not-readable"):
        load_weights(model, path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_changed_rounds_compile_nothing_new() -> None:
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    model = to_torch(model_spec("A[1]^3B[1]", preset="tiny"))
    for name in model.graph.blocks:
        model.get_submodule(name).compile(backend="aot_eager")
    input_ids = torch.arange(12)[None]
    model(input_ids, 1).sum().backward()
    first = counters["stats"]["unique_graphs"]
    for rounds in (2, 3, 4, 1):
        model(input_ids, rounds).sum().backward()
    assert counters["stats"]["unique_graphs"] == first > 0


def test_a_model_that_is_gone_leaves_no_module_behind() -> None:
    def names() -> set[str]:
        return {name for name in sys.modules if name.startswith("rinsc_model_")}

    gc.collect()
    before = names()
    module = to_torch(small_spec("A^2B"))
    (name,) = names() - before
    assert sys.modules[name].__dict__["Model"] in type(module).__mro__
    del module
    gc.collect()
    assert names() <= before


@pytest.mark.parametrize("rounds", [None, 1, {}])
def test_a_model_without_a_repeat_takes_the_rounds_of_none(rounds: Any) -> None:
    module = to_torch(small_spec("AB"))
    ids = torch.randint(module.spec.vocab_size, (2, 5))
    assert torch.equal(module(ids, rounds=rounds), module(ids))
    with pytest.raises(ValueError, match="without a repeat"):
        module.forward(ids, rounds={"A": 1})


SMALL = model_spec("A^2B", preset="tiny", layers=2)


def devices_of(model: torch.nn.Module) -> set[str]:
    return {tensor.device.type for tensor in (*model.parameters(), *model.buffers())}


def test_a_module_is_made_on_the_device_that_torch_is_told() -> None:
    with torch.device("meta"):
        assert devices_of(to_torch(SMALL)) == devices_of(causal_lm(SMALL)) == {"meta"}
        assert devices_of(to_torch(SMALL, device="cpu")) == {"cpu"}
    torch.set_default_device("meta")
    try:
        assert devices_of(to_torch(SMALL)) == devices_of(causal_lm(SMALL)) == {"meta"}
        on_cpu = cached_module(to_torch(SMALL, device="cpu"))
        assert devices_of(on_cpu) == {"cpu"}
        assert on_cpu(torch.zeros(1, 3, dtype=torch.long, device="cpu"))[0].device.type == "cpu"
    finally:
        torch.set_default_device(None)
    assert devices_of(to_torch(SMALL)) == devices_of(causal_lm(SMALL)) == {"cpu"}


def test_what_memory_cannot_hold_is_made_on_the_meta_device() -> None:
    huge = model_spec("A^2B", preset="1b", layers=2000, width=16384, mlp_width=65536)
    with torch.device("meta"):
        assert devices_of(to_torch(huge)) == {"meta"}


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_module_is_of_the_default_type(kind: str, dtype: torch.dtype) -> None:
    """The same numbers as a float32 model that is cast."""
    signature = "A[1]^2{inject=add, init=noise}B[1]"
    spec = model_spec(signature, preset="tiny", kind=kind, layers=2, width=32, heads=2)
    torch.set_default_dtype(dtype)
    try:
        model = to_torch(spec).eval()
        given = random_input(spec, batch=2, seq=5)
        logits = model(given)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {tensor.dtype for tensor in (*model.parameters(), *model.buffers())} == {dtype}
    plain = to_torch(spec).to(dtype).eval()
    plain.load_state_dict(model.state_dict())
    assert logits.dtype == dtype
    tolerance = 1e-4 if dtype == torch.float64 else 4e-2  # tables are rounded once more there
    torch.testing.assert_close(logits, plain(given), atol=tolerance, rtol=tolerance)
