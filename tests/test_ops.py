"""Primitive operations: what PyTorch and ONNX Runtime make of each, against its definition."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from rinsc import ops
from rinsc.backends.onnx.write.builder import FLOAT, INT64, OpBuilder, make_value
from rinsc.backends.onnx.write.ops import ONNX_OPS
from rinsc.backends.onnx.write.site import Site
from rinsc.backends.torch.helpers import HELPERS
from rinsc.backends.torch.module import load_source
from rinsc.backends.torch.ops import TORCH_OPS
from rinsc.backends.torch.statements import indented, statements
from rinsc.errors import GraphError
from rinsc.layers import LayerKind, layer_kind, register_kind, trace_programs
from rinsc.ops import Op, Shape, at_sizes
from rinsc.ops.program import Builder, Program, Value, trace
from rinsc.spec import ModelSpec, model_spec
from rinsc.spec.kinds import in_this_program

STATE: Shape = ("batch", "seq", 6)
Arrays = Mapping[str, torch.Tensor]


def program_of(op: Op, shapes: Mapping[str, Shape]) -> Program:
    """One operation between its inputs and an output."""

    def run(b: Builder, given: dict[str, Value]) -> dict[str, Value]:
        return {"y": b(op, *given.values(), name="op")}

    return trace(dict(shapes), run)


def torch_module(program: Program) -> nn.Module:
    """The program as an emitted module of its own."""
    made = [TORCH_OPS[type(node.op)] for node in program.nodes]
    names = {name: name for name in program.inputs}
    lines, results = statements(program, names)
    own = [op.module(node) for op, node in zip(made, program.nodes, strict=True) if op.module]
    body = ["super().__init__()", *own]
    source = "\n".join(
        [
            "from __future__ import annotations",
            "import math",
            "import torch",
            "import torch.nn.functional as F",
            "from torch import nn",
            *(
                HELPERS[n]
                for op, node in zip(made, program.nodes, strict=True)
                for n in op.called(node)
            ),
            "class Model(nn.Module):",
            "    def __init__(self):",
            *indented(indented(body)),
            f"    def forward(self, {', '.join(names)}):",
            *indented(indented([*lines, f"return {results['y']}"])),
        ]
    )
    model: nn.Module = load_source(source)["Model"]()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


def torch_inputs(program: Program, given: Arrays) -> list[Any]:
    """Numbers without dimensions are Python's there."""
    return [
        value.item() if value.ndim == 0 else value for value in (given[n] for n in program.inputs)
    ]


def onnx_result(program: Program, model: nn.Module, given: Arrays) -> npt.NDArray[np.float32]:
    arrays = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    op = OpBuilder(arrays)
    inputs = {
        name: make_value(name, value.shape, INT64 if given[name].dtype == torch.int64 else FLOAT)
        for name, value in program.inputs.items()
    }
    (node,) = program.nodes
    result = op.Identity(ONNX_OPS[type(node.op)](op, Site(node, ""), [*inputs.values()]), name="y")
    graph = ir.Graph(
        list(inputs.values()),
        [result],
        nodes=op.nodes,
        initializers=list(op.initializers.values()),
        opset_imports={"": 23},
        name="op",
    )
    proto = ir.to_proto(ir.Model(graph, ir_version=10))
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    feed = {name: tensor.numpy() for name, tensor in given.items()}
    found: npt.NDArray[np.float32] = session.run(None, feed)[0]
    return found


def draw_inputs(program: Program, batch: int, seq: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    sizes = (("batch", batch), ("seq", seq))
    return {
        name: torch.tensor(2)
        if value.shape == ()
        else torch.randn(at_sizes(value.shape, sizes), generator=generator)
        for name, value in program.inputs.items()
    }


def by_hand_shift(x: torch.Tensor, steps: int) -> torch.Tensor:
    return torch.stack(
        [x[:, p - steps] if p >= steps else torch.zeros_like(x[:, 0]) for p in range(x.shape[1])], 1
    )


def by_hand_window(
    m: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> torch.Tensor:
    """A window of three, a position at a time."""
    mixed = []
    for end in range(1, query.shape[2] + 1):
        near = slice(max(0, end - 3), end)
        scores = query[:, :, end - 1 : end] @ key[:, :, near].mT / query.shape[3] ** 0.5
        mixed.append(scores.softmax(-1) @ value[:, :, near])
    return torch.cat(mixed, dim=2)


X = {"x": STATE}
PAIR = {"x": STATE, "y_": STATE}
HEADS: Shape = ("batch", 2, "seq", 4)
QKV = {"q": HEADS, "k": HEADS, "v": HEADS}
CASES: dict[str, tuple[Op, Mapping[str, Shape], Callable[..., torch.Tensor]]] = {
    "row": (ops.Row(4, (3, 5), "zeros"), {"i": ()}, lambda m, i: m.op.weight[2]),
    "last row": (ops.Row(2, (3, 5), "zeros"), {"i": ()}, lambda m, i: m.op.weight[1]),
    "vector": (ops.Vector(7, "zeros"), X, lambda m, x: m.op.weight),
    "project": (ops.Project(), {"x": STATE, "w": (5, 6)}, lambda m, x, w: x @ w.T),
    "concat": (
        ops.Concat(),
        {"x": STATE, "z": ("batch", "seq", 3)},
        lambda m, x, z: torch.cat([x, z], 2),
    ),
    "sub": (ops.Sub(), {"x": STATE, "v": (6,)}, lambda m, x, v: x + -1 * v),
    "zeros": (ops.ZerosLike(), X, lambda m, x: 0 * x),
    "scale": (ops.Scale(-1.5), X, lambda m, x: x - 2.5 * x),
    "weigh": (ops.Weigh(), X, lambda m, x: x @ torch.diag(m.op.weight)),
    "mean pool": (ops.MeanPool(), X, lambda m, x: x.sum(1) / x.shape[1]),
    "softmax": (
        ops.Softmax(),
        X,
        lambda m, x: x.exp() / x.exp().sum(-1, keepdim=True),
    ),
    "largest": (
        ops.Largest(),
        X,
        lambda m, x: (x == x.amax(-1, keepdim=True)).float(),
    ),
    "two largest": (
        ops.Largest(2),
        X,
        lambda m, x: (x >= x.sort(-1).values[..., -2:-1]).float(),
    ),
    "stretch": (
        ops.Stretch(3),
        X,
        lambda m, x: torch.stack([x, x, x], -1).flatten(-2),
    ),
    "token mean": (ops.TokenMean(), X, lambda m, x: x.sum((0, 1)) / (x.shape[0] * x.shape[1])),
    "auxiliary loss": (ops.AuxiliaryLoss(0.5), {"x": STATE, "v": (6,)}, lambda m, x, v: x),
    "shift 0": (ops.Shift(0), X, lambda m, x: x),
    "shift 1": (ops.Shift(1), X, lambda m, x: by_hand_shift(x, 1)),
    "shift 4": (ops.Shift(4), X, lambda m, x: by_hand_shift(x, 4)),
    "unit norm": (
        ops.UnitRMSNorm(0.1),
        X,
        lambda m, x: x / (x.square().mean(-1, keepdim=True) + 0.1).sqrt(),
    ),
    "silu": (ops.Activation("silu"), X, lambda m, x: x / (1 + (-x).exp())),
    "sigmoid": (ops.Activation("sigmoid"), X, lambda m, x: 1 / (1 + (-x).exp())),
    "relu": (ops.Activation("relu"), X, lambda m, x: x.clamp(0)),
    "tanh": (ops.Activation("tanh"), X, lambda m, x: 2 / (1 + (-2 * x).exp()) - 1),
    "gelu": (
        ops.Activation("gelu"),
        X,
        lambda m, x: x * torch.special.ndtr(x),
    ),
    "gelu_tanh": (
        ops.Activation("gelu_tanh"),
        X,
        lambda m, x: x / (1 + (-1.5957691216 * (x + 0.044715 * x**3)).exp()),
    ),
    "causal": (
        ops.Attention(),
        QKV,
        lambda m, q, k, v: (
            (q @ k.mT / 2 - torch.full((q.shape[2],) * 2, 1e9).triu(1)).softmax(-1) @ v
        ),
    ),
    "window 1": (ops.Attention(window=1), QKV, lambda m, q, k, v: v),
    "window 3": (ops.Attention(window=3), QKV, by_hand_window),
    "window 99": (
        ops.Attention(window=99),
        QKV,
        lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    ),
    "not causal": (
        ops.Attention(causal=False),
        QKV,
        lambda m, q, k, v: (q @ k.mT / 2).softmax(-1) @ v,
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("batch", "seq"), [(1, 1), (3, 7), (2, 3)])
def test_both_backends_compute_the_definition(case: str, batch: int, seq: int) -> None:
    op, shapes, definition = CASES[case]
    program = program_of(op, shapes)
    model, given = torch_module(program), draw_inputs(program, batch, seq)
    expected = definition(model, *(given[name] for name in program.inputs))
    assert expected.shape == at_sizes(program.outputs["y"].shape, (("batch", batch), ("seq", seq)))
    found = model(*torch_inputs(program, given))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    in_onnx = torch.from_numpy(onnx_result(program, model, given))
    torch.testing.assert_close(in_onnx, expected.detach(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", ["shift 1", "scale", "unit norm", "mean pool", "causal", "row"])
def test_a_wrong_lowering_shows(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    op, shapes, definition = CASES[case]
    right = ONNX_OPS[type(op)]

    def wrong(builder: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
        made = right(builder, at, inputs)
        return builder.Mul(made, builder.constant("wrong", np.array(1.01, np.float32)))

    monkeypatch.setitem(ONNX_OPS, type(op), wrong)
    program = program_of(op, shapes)
    model, given = torch_module(program), draw_inputs(program, 2, 5)
    expected = definition(model, *(given[name] for name in program.inputs)).detach().numpy()
    assert np.abs(onnx_result(program, model, given) - expected).max() > 1e-3


@pytest.mark.parametrize("case", CASES)
def test_flops_are_those_that_pytorch_counts(case: str) -> None:
    op, shapes, _ = CASES[case]
    program = program_of(op, shapes)
    model = torch_module(program).to("meta")
    given = {name: x.to("meta") for name, x in draw_inputs(program, 3, 7).items() if x.ndim}
    given |= {name: torch.tensor(2) for name in program.inputs if name not in given}
    with FlopCounterMode(display=False) as counter:
        model(*torch_inputs(program, given))
    sizes = [tuple(given[name].shape) for name in program.inputs]
    assert op.matmul_flops(*sizes, causal="full") == counter.get_total_flops()


def test_only_what_a_mask_hides_is_left_out_of_the_count() -> None:
    sizes = [(1, 2, 5, 4)] * 3
    assert ops.Attention().matmul_flops(*sizes, causal="half") == 4 * 2 * 15 * 4
    assert ops.Attention(causal=False).matmul_flops(*sizes, causal="half") == 4 * 2 * 25 * 4
    near = 1 + 2 + 3 + 3 + 3
    assert ops.Attention(window=3).matmul_flops(*sizes, causal="half") == 4 * 2 * near * 4
    assert ops.Attention(window=3).matmul_flops(*sizes, causal="full") == 4 * 2 * 25 * 4


@pytest.mark.parametrize("window", [0, -1, 2.5, True])
def test_a_window_that_sees_nothing_is_refused(window: Any) -> None:
    with pytest.raises(GraphError, match="bad-window"):
        ops.Attention(window=window)


@pytest.mark.parametrize("case", CASES)
def test_every_tensor_of_an_operation_is_one_of_its_params(case: str) -> None:
    op, shapes, _ = CASES[case]
    program = program_of(op, shapes)
    held = {name: tuple(p.shape) for name, p in torch_module(program).named_parameters()}
    assert held == {param.name: param.shape for param in program.params}


@pytest.mark.parametrize(
    ("op", "shapes"),
    [
        (ops.Project(), {"x": STATE, "w": (6, 5)}),
        (ops.Project(), {"x": STATE, "w": (6,)}),
        (ops.Concat(), {"x": STATE, "v": (6,)}),
        (ops.Sub(), {"x": STATE, "v": (5,)}),
    ],
)
def test_shapes_that_do_not_fit_are_refused(op: Op, shapes: Mapping[str, Shape]) -> None:
    with pytest.raises(GraphError) as caught:
        program_of(op, shapes)
    assert caught.value.code == "shapes-differ"
    assert caught.value.hint


def test_a_shift_that_looks_ahead_is_refused() -> None:
    with pytest.raises(GraphError, match="bad-shift"):
        ops.Shift(-1)


def noise(batch: int, seq: int, width: int, seed: int) -> torch.Tensor:
    source = f"import math\nimport torch\n{HELPERS['noise_like']}"
    made: torch.Tensor = load_source(source)["noise_like"](torch.zeros(batch, seq, width), seed)
    return made


@given(
    batch=st.integers(1, 3),
    seq=st.integers(1, 9),
    width=st.integers(1, 9),
    seed=st.integers(-(2**62), 2**62) | st.integers(0, 5),
)
def test_noise_is_the_same_in_both_backends(batch: int, seq: int, width: int, seed: int) -> None:
    program = program_of(ops.Noise(), {"x": ("batch", "seq", width), "seed": ()})
    given_ = {"x": torch.ones(batch, seq, width), "seed": torch.tensor(seed)}
    model = torch_module(program)
    found = model(*torch_inputs(program, given_))
    torch.testing.assert_close(found, noise(batch, seq, width, seed), rtol=0, atol=0)
    in_onnx = torch.from_numpy(onnx_result(program, model, given_))
    torch.testing.assert_close(in_onnx, found, rtol=0, atol=1e-5)


def test_noise_stays_where_it_is_when_batch_and_sequence_grow() -> None:
    small, large = noise(2, 5, 8, 3), noise(4, 11, 8, 3)
    torch.testing.assert_close(large[:2, :5], small, rtol=0, atol=0)


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_noise_is_standard_normal_and_neighbours_are_independent(seed: int) -> None:
    x = noise(16, 64, 256, seed).double()  # 262,144 numbers: deviations of means are 0.002
    assert abs(x.mean()) < 0.01
    assert abs(x.var() - 1) < 0.02
    assert abs((x**3).mean()) < 0.04
    assert abs((x**4).mean() - 3) < 0.1
    assert abs((x.abs() < 0.6744898).double().mean() - 0.5) < 0.005
    assert torch.isfinite(x).all()
    others = [x.roll(shift, axis) for axis in range(3) for shift in (1, 2, 3)]
    others += [x.square().roll(1, axis) - 1 for axis in range(3)]
    others += [noise(16, 64, 256, seed + step).double() for step in (1, 2, 1000)]
    for other in others:
        assert abs((x * other).mean()) < 0.012
    assert len(set(x.flatten().tolist())) > 0.98 * x.numel()


def test_noise_of_a_plain_counter_would_fail() -> None:
    """The checks above see what mixing is for: without it neighbours go together."""
    source = f"import math\nimport torch\n{HELPERS['noise_like']}"
    names = load_source(source)
    names["mixed"] = lambda number: number * 48271 % names["PRIME"]
    x = names["noise_like"](torch.zeros(4, 32, 64), 1).double()
    worst = max(abs((x * x.roll(shift, axis)).mean()) for axis in range(3) for shift in (1, 2, 3))
    assert worst > 0.05 or abs(x.var() - 1) > 0.1


def changed_positions(case: str, position: int) -> set[int] | None:
    """Where the result changes with what all inputs hold at one position; None where a result has
    no positions."""
    op, shapes, _ = CASES[case]
    program = program_of(op, shapes)
    model, given = torch_module(program), draw_inputs(program, 2, 7)
    output = program.outputs["y"].shape
    other = dict(given)
    for name, value in program.inputs.items():
        if "seq" in value.shape:
            other[name] = given[name].clone()
            other[name].select(value.shape.index("seq"), position).mul_(1.7).add_(0.3)
    with torch.no_grad():
        pair = [model(*torch_inputs(program, inputs)) for inputs in (given, other)]
    if "seq" not in output:
        return None if torch.equal(*pair) else {-1}
    differ = (pair[0] != pair[1]).movedim(output.index("seq"), 0).flatten(1).any(1)
    return {int(place) for place in differ.nonzero()}


@pytest.mark.parametrize("case", CASES)
def test_the_reach_of_an_operation_is_what_a_change_reaches(case: str) -> None:
    reach = CASES[case][0].reach
    for position in range(7):
        changed = changed_positions(case, position)
        if changed is None:
            continue
        allowed = {"own": {position}, "earlier": set(range(position, 7))}
        assert reach == "any" or changed <= allowed[reach]
    assert reach != "any" or any(place < 6 for place in changed_positions(case, 6) or ())


@pytest.mark.parametrize("left_out", ["reach", "needs", "parts", "kept"])
def test_an_operation_that_leaves_a_trait_out_is_refused(left_out: str) -> None:
    traits = {"reach": "own", "needs": "nothing", "parts": "any", "kept": "inputs"}
    type("Whole", (Op,), {}, **traits)
    del traits[left_out]
    with pytest.raises(TypeError, match=f"operation Half must state: {left_out}"):
        type("Half", (Op,), {}, **traits)
    with pytest.raises(GraphError, match=f"'{left_out}'"):
        type("Odd", (Op,), {}, **traits, **{left_out: "perhaps"})


def test_a_pooling_layer_is_not_causal() -> None:
    """What sees all positions is refused whatever the operation is, attention or not."""
    llama = layer_kind("llama")

    def pooled(b: Builder, x: Value, sides: dict[str, Value], spec: ModelSpec) -> Value:
        b(ops.MeanPool(), x)
        return x

    register_kind("pooled", LayerKind(llama.embed, pooled, llama.head))
    try:
        with pytest.raises(GraphError, match="meanpool that sees later positions"):
            trace_programs(model_spec("AB", preset="tiny", kind="pooled"))
    finally:
        del in_this_program["pooled"]


@pytest.mark.parametrize("count", [0, 7])
def test_more_than_there_are_cannot_be_the_largest(count: int) -> None:
    with pytest.raises(GraphError, match=f"{count} of 6 cannot be the largest"):
        program_of(ops.Largest(count), X)
