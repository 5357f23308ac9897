"""Layer kinds and operations: complete in every backend, and checked while they are traced."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import rinsc
from rinsc.backends.onnx import Session, to_onnx
from rinsc.backends.onnx.write.ops import ONNX_OPS
from rinsc.backends.torch import to_torch
from rinsc.backends.torch.ops import TORCH_OPS
from rinsc.cost import forward_flops, stored_params
from rinsc.errors import GraphError, SpecError
from rinsc.graph import build_graph
from rinsc.layers import LayerKind, fixed_length, layer_kind, trace_programs
from rinsc.layers.llama import embed, head
from rinsc.layers.mixing import rotary_sides
from rinsc.ops import (
    Activation,
    Add,
    Attention,
    Linear,
    MergeHeads,
    Op,
    RMSNorm,
    RotaryTable,
    SplitHeads,
)
from rinsc.ops.program import Builder, Value
from rinsc.spec import ModelSpec, kinds, model_spec
from rinsc.spec.kinds import KINDS
from rinsc.verification import random_input

LayerFunction = Callable[[Builder, Value, dict[str, Value], ModelSpec], Value]


def test_every_operation_is_lowered_by_every_backend() -> None:
    operations = set(Op.__subclasses__())
    assert operations == set(TORCH_OPS) == set(ONNX_OPS)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_kinds_trace_and_name_their_parts(kind: str) -> None:
    programs = trace_programs(model_spec("AB", preset="tiny", kind=kind))
    assert isinstance(layer_kind(kind), LayerKind)
    for program in programs.every:
        assert all(node.part for node in program.nodes)
        names = [param.name for param in program.params]
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_costs_of_kinds_are_those_that_pytorch_counts(kind: str) -> None:
    sizes: dict[str, Any] = {
        "width": 48,
        "heads": 6,
        "kv_heads": 3,
        "mlp_width": 35,
        "vocab_size": 29,
    }
    takes, gives = layer_kind(kind).takes, layer_kind(kind).gives
    context = None if takes == "pixels" else 16
    spec = model_spec("(A^2)B", layers=4, context=context, kind=kind, patch_width=21, **sizes)
    model, graph = to_torch(spec, device="meta"), build_graph(spec)
    seq = fixed_length(spec) or 11
    with FlopCounterMode(display=False) as counter:
        output = model(random_input(spec, 2, seq, device="meta"))
    assert seq == (196 if takes == "pixels" else 11)
    numbers = 29 if gives == "logits" else 48
    has_rows = takes == "tokens" and gives == "logits"
    assert output.shape == ((2, 11, numbers) if has_rows else (2, numbers))
    assert forward_flops(graph, seq, batch=2).total == counter.get_total_flops()
    assert stored_params(graph) == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_kinds_say_truly_whether_later_positions_are_seen(kind: str) -> None:
    sizes: dict[str, Any] = {
        "width": 16,
        "heads": 2,
        "mlp_width": 9,
        "vocab_size": 13,
        "context": None if kind == "siglip_image" else 8,
    }
    spec = model_spec("AB", layers=2, kind=kind, patch_width=5, **sizes)
    if layer_kind(kind).takes != "tokens" or layer_kind(kind).gives == "embedding":
        assert not layer_kind(kind).causal
        return
    torch.manual_seed(0)
    model = to_torch(spec)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        one, other = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[1, 2, 3, 5]])
        change = (model(one) - model(other))[:, :3].abs().max()
    assert (change == 0) == layer_kind(kind).causal


@pytest.mark.parametrize("kind", ["llama", "gpt", "vit"])
def test_blocks_of_every_kind_stand_together(kind: str) -> None:
    sizes: dict[str, Any] = {"width": 24, "heads": 4, "kv_heads": 2, "mlp_width": 13}
    word = "A{kind=hrm_high}(B{kind=ouro}C{kind=gpt})^2D{kind=albert}E{kind=huginn}F{kind=vit}G"
    spec = model_spec(word, layers=7, vocab_size=29, context=16, kind=kind, patch_width=21, **sizes)
    torch.manual_seed(0)
    model = to_torch(spec).eval()
    given = torch.randn(2, 11, 21) if kind == "vit" else torch.randint(29, (2, 11))
    session = Session(to_onnx(model, rounds="dynamic"), threads=1)
    for rounds in (1, 2, 3):
        with torch.no_grad():
            expected = model(given, rounds=rounds)
        found = torch.from_numpy(session.logits(given.numpy(), rounds=rounds))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def two_of_a_name(b: Builder, x: Value, sides: dict[str, Value], spec: ModelSpec) -> Value:
    return b(Linear(spec.width), b(Linear(spec.width), x, name="a"), name="a")


def no_name(b: Builder, x: Value, sides: dict[str, Value], spec: ModelSpec) -> Value:
    return b(RMSNorm(1e-5), x)


def odd_name(b: Builder, x: Value, sides: dict[str, Value], spec: ModelSpec) -> Value:
    return b(RMSNorm(1e-5), x, name="a.b")


def keyword(b: Builder, x: Value, sides: dict[str, Value], spec: ModelSpec) -> Value:
    return b(RMSNorm(1e-5), x, name="lambda")


def shape_changed(b: Builder, x: Value, sides: dict[str, Value], spec: ModelSpec) -> Value:
    return b(Linear(7), x, name="a")


def shapes_differ(b: Builder, x: Value, sides: dict[str, Value], spec: ModelSpec) -> Value:
    return b(Add(), x, b(Linear(7), x, name="a"))


def looks_ahead(b: Builder, x: Value, sides: dict[str, Value], spec: ModelSpec) -> Value:
    x = b(SplitHeads(spec.heads), x)
    return b(MergeHeads(), b(Attention(causal=False), x, x, x))


def misspelt_start(b: Builder, x: Value, sides: dict[str, Value], spec: ModelSpec) -> Value:
    start: Any = "normall"
    return b(Linear(spec.width, init=start), x, name="a")


def misspelt_function(b: Builder, x: Value, sides: dict[str, Value], spec: ModelSpec) -> Value:
    function: Any = "silo"
    return b(Activation(function), x)


def nameless_table(b: Builder, x: Value, sides: dict[str, Value], spec: ModelSpec) -> Value:
    b(RotaryTable("cos", 1e4, spec.head_size, spec.context), x)
    return x


@pytest.mark.parametrize(
    ("layer", "code"),
    [
        (looks_ahead, "not-causal"),
        (misspelt_start, "bad-operation"),
        (misspelt_function, "bad-operation"),
        (nameless_table, "bad-operation-name"),
        (two_of_a_name, "bad-operation-name"),
        (no_name, "bad-operation-name"),
        (odd_name, "bad-operation-name"),
        (keyword, "bad-operation-name"),
        (shape_changed, "layer-changes-shape"),
        (shapes_differ, "shapes-differ"),
    ],
)
def test_a_broken_kind_is_refused_while_it_is_traced(
    layer: LayerFunction, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rinsc.layers.llama.KIND", LayerKind(embed, layer, head, rotary_sides))
    trace_programs.cache_clear()
    try:
        with pytest.raises(GraphError) as caught:
            trace_programs(model_spec("AB", preset="tiny"))
    finally:
        trace_programs.cache_clear()
    assert caught.value.code == code
    assert caught.value.hint


def test_an_odd_head_width_is_refused_before_anything_is_built() -> None:
    with pytest.raises(GraphError, match="odd-head-width"):
        trace_programs(model_spec("AB", preset="tiny", width=60, heads=4))


Register = Callable[[str, str], None]


@pytest.fixture
def register(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Register]:
    """Installs a package ``stranger`` with one entry point, and a module of that source."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(entry_point: str, source: str) -> None:
        metadata = tmp_path / "stranger-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(f"[rinsc.spec.kinds]\n{entry_point}\n")
        (tmp_path / "strange_layers.py").write_text(source)
        forget()

    def forget() -> None:
        kinds.registered.cache_clear()
        sys.modules.pop("strange_layers", None)

    yield install
    forget()


@pytest.mark.parametrize(
    ("entry_point", "source", "reason"),
    [
        ("strange = absent_module", "", "absent_module"),
        ("strange = strange_layers", "", "has no attribute 'KIND'"),
        ("strange = strange_layers:OTHER", "KIND = 1", "has no attribute 'OTHER'"),
        ("strange = strange_layers", "KIND = 1", "'KIND' is not a LayerKind"),
        ("strange = strange_layers", "1 / 0", "ZeroDivisionError"),
        ("strange = strange_layers", "def", "SyntaxError"),
        ("strange-er = strange_layers", "KIND = 1", "must be an identifier"),
    ],
)
def test_a_broken_registration_is_one_error_that_names_the_package(
    register: Register, entry_point: str, source: str, reason: str
) -> None:
    register(entry_point, source)
    name = entry_point.split(" =")[0]
    spec = model_spec("AB", preset="tiny", kind=name)
    with pytest.raises(GraphError) as caught:
        trace_programs(spec)
    assert caught.value.code == "broken-kind"
    assert reason in caught.value.message
    assert "'stranger'" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("sides['angles']", "KeyError: 'angles'"),
        ("None", "a layer must return a value, not NoneType"),
        ("x + x", "TypeError"),
        ("1", "a layer must return a value, not int"),
    ],
)
def test_code_that_fails_is_one_error_that_names_the_package(
    register: Register, body: str, reason: str
) -> None:
    source = "from rinsc.layers import LayerKind\nfrom rinsc.layers.llama import embed, head\n"
    source += f"KIND = LayerKind(embed, lambda b, x, sides, spec: {body}, head)\n"
    register("strange = strange_layers", source)
    with pytest.raises(GraphError) as caught:
        trace_programs(model_spec("AB", preset="tiny", kind="strange"))
    assert caught.value.code == "broken-kind"
    assert reason in caught.value.message
    assert "'stranger'" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ("head=lambda b, x, spec: x", "a head must give logits"),
        ("embed=lambda b, ids, spec: None", "embed must return a value, not NoneType"),
        ("sides=lambda b, ids, x, spec: {'x': x}", "a side value cannot be called 'x'"),
        ("sides=lambda b, ids, x, spec: {'each': x}", "a side value cannot be called 'each'"),
        ("sides=lambda b, ids, x, spec: None", "AttributeError"),
        ("takes='images'", "takes must be one of tokens, patches"),
        ("layer=None", "must be functions"),
        ("init_std='x'", "init_std must be a number"),
    ],
)
def test_a_kind_of_a_stranger_is_checked_as_a_whole(
    register: Register, changes: str, reason: str
) -> None:
    source = "from dataclasses import replace\nfrom rinsc.layers.transformer import GPT\n"
    register("strange = strange_layers", f"{source}KIND = replace(GPT, {changes})\n")
    with pytest.raises(GraphError) as caught:
        trace_programs(model_spec("AB", preset="tiny", kind="strange"))
    assert caught.value.code == "broken-kind"
    assert reason in caught.value.message


def test_kinds_whose_classes_would_have_one_name(register: Register) -> None:
    register("llama_tied_mlp = strange_layers", "from rinsc.layers.transformer import GPT as KIND")
    model = to_torch(model_spec("A{tie=mlp}B{kind=llama_tied_mlp}", preset="tiny"))
    assert model(torch.zeros(1, 3, dtype=torch.long)).shape == (1, 3, 512)
    assert "class LlamaTiedMlpBlock(" in model.source
    assert "class LlamaTiedMlp2Block(" in model.source


def test_side_values_of_one_name_say_whose_they_are(register: Register) -> None:
    source = "from dataclasses import replace\nfrom rinsc.layers.llama import KIND as LLAMA\n"
    source += "from rinsc.layers.mixing import rotary_sides\n"
    source += "KIND = replace(LLAMA, sides=lambda *given: rotary_sides(*given))\n"
    register("strange = strange_layers", source)
    with pytest.raises(GraphError) as caught:
        trace_programs(model_spec("A{kind=strange}B", preset="tiny"))
    assert "'strange'" in str(caught.value) or "'llama'" in str(caught.value)


def test_a_registered_kind_of_another_attribute_is_found(register: Register) -> None:
    register("strange = strange_layers:OTHER", "from rinsc.layers.transformer import GPT as OTHER")
    assert layer_kind("strange") is layer_kind("gpt")
    assert kinds.is_kind("strange")
    assert "strange" in kinds.kind_names()[len(KINDS) :]


def test_a_kind_of_rinsc_cannot_be_replaced(register: Register) -> None:
    register("llama = strange_layers", "KIND = 1")
    assert isinstance(layer_kind("llama"), LayerKind)
    assert kinds.kind_names()[: len(KINDS)] == tuple(KINDS)


@pytest.fixture
def this_program() -> Iterator[None]:
    """What a test registers is forgotten after it."""
    before = dict(kinds.in_this_program)
    yield
    kinds.in_this_program.clear()
    kinds.in_this_program.update(before)
    trace_programs.cache_clear()


def mixed(width: int, name: str) -> LayerFunction:
    def layer(b: Builder, x: Value, sides: dict[str, Value], spec: ModelSpec) -> Value:
        with b.part("mlp"):
            h = b(Activation("relu"), b(Linear(width), x, name=name))
            return b(Add(), x, b(Linear(spec.width), h, name="back"))

    return layer


@pytest.mark.usefixtures("this_program")
def test_a_kind_is_registered_while_the_program_runs() -> None:
    with pytest.raises(SpecError, match=r"rinsc\.register_kind"):
        model_spec("AB", preset="tiny", kind="zmixer")
    kind = LayerKind(embed, mixed(10, "there"), head)
    assert rinsc.register_kind("zmixer", kind) is kind
    spec = model_spec("A^3{adapter=scale}B{kind=llama}", preset="tiny", layers=4, kind="zmixer")
    model = to_torch(spec).eval()
    w = {name: value.detach() for name, value in model.named_parameters()}
    layers = [name for name in w if name.endswith("there.weight")]
    assert len(layers) == 2
    assert sum(w[name].numel() for name in layers) == 2 * 10 * spec.width
    input_ids = torch.randint(spec.vocab_size, (2, 9))
    logits = Session(to_onnx(model)).logits(input_ids.numpy())
    assert np.abs(logits - model(input_ids).detach().numpy()).max() < 1e-4
    alone = to_torch(model_spec("A", preset="tiny", layers=1, kind="zmixer")).eval()
    w = {name: value.detach() for name, value in alone.named_parameters()}
    (there,), (back,) = ([w[n] for n in w if part in n] for part in ("there", "back"))
    x = w["embedding.weight"][input_ids]
    x = x + torch.relu(x @ there.T) @ back.T
    norm = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * w["final_norm.weight"]
    torch.testing.assert_close(alone(input_ids), norm @ w["embedding.weight"].T)


@pytest.mark.usefixtures("this_program")
def test_a_name_is_taken_again_only_when_that_is_said() -> None:
    first, second = (LayerKind(embed, mixed(width, "there"), head) for width in (10, 20))
    rinsc.register_kind("zmixer", first)
    spec = model_spec("AB", preset="tiny", kind="zmixer")
    small = stored_params(build_graph(spec))
    rinsc.register_kind("zmixer", first)
    with pytest.raises(SpecError, match="replace=True"):
        rinsc.register_kind("zmixer", second)
    assert stored_params(build_graph(spec)) == small
    rinsc.register_kind("zmixer", second, replace=True)
    assert stored_params(build_graph(spec)) == small + 12 * 2 * 10 * spec.width


@pytest.mark.parametrize(
    ("name", "kind", "code"),
    [
        ("llama", layer_kind("gpt"), "kind-taken"),
        ("Mixer", layer_kind("gpt"), "bad-kind-name"),
        ("a-b", layer_kind("gpt"), "bad-kind-name"),
        ("class", layer_kind("gpt"), "bad-kind-name"),
        ("m" * 33, layer_kind("gpt"), "bad-kind-name"),
        (7, layer_kind("gpt"), "bad-kind-name"),
        ("zmixer", mixed(3, "a"), "bad-kind"),
    ],
)
def test_what_cannot_be_registered(name: Any, kind: Any, code: str) -> None:
    with pytest.raises(SpecError) as caught:
        rinsc.register_kind(name, kind)
    assert caught.value.code == code
    assert name not in kinds.in_this_program


@pytest.mark.usefixtures("this_program")
def test_a_registered_kind_that_fails_says_so() -> None:
    def broken(b: Builder, x: Value, sides: dict[str, Value], spec: ModelSpec) -> Value:
        raise KeyError("cos")

    rinsc.register_kind("zbroken", LayerKind(embed, broken, head))
    with pytest.raises(GraphError, match="KeyError: 'cos'") as caught:
        trace_programs(model_spec("AB", preset="tiny", kind="zbroken"))
    assert caught.value.hint == "mend the code that registers it"


@pytest.mark.usefixtures("this_program")
def test_the_example_of_the_page_on_kinds_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[1] / "docs" / "kinds.md").read_text(encoding="utf-8")
    *_, example = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    exec(compile(example, "kinds.md", "exec"), {})
    width, layers, vocab = 64, 12, 512
    llama = 2 * width + 2 * width * 176 + 176 * width + 2 * width * width + 2 * width * width // 2
    own = (width + 2 * 8 * width) * layers // 2
    assert int(capsys.readouterr().out) == own + llama * layers // 2 + vocab * width + width
