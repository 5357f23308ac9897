"""Numbers of numpy and torch at every entry that takes numbers; what is no such number there."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from decimal import Decimal
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import rinsc
from rinsc.backends.hf import RinscConfig, RoundsCallback, causal_lm
from rinsc.backends.onnx.form import Exit
from rinsc.cost import forward_flops, memory, training_flops_per_token
from rinsc.graph import at_rounds, build_graph
from rinsc.sampling import Sampling
from rinsc.scalars import plain, real, truth, whole
from rinsc.spec import spec_to_toml, with_signature
from rinsc.training.config import TrainConfig, config_to_toml
from rinsc.variants.costed import Limits
from rinsc.variants.enumerate import variants

TWOS: dict[str, Any] = {
    "int64": np.int64(2),
    "uint8": np.uint8(2),
    "array": np.array(2),
    "tensor": torch.tensor(2),
    "int32 tensor": torch.tensor(2, dtype=torch.int32),
}
NO_NUMBERS: dict[str, Any] = {
    "bool": True,
    "numpy bool": np.True_,
    "bool array": np.array(True),
    "bool tensor": torch.tensor(True),
    "float": 2.0,
    "float64": np.float64(2),
    "float32": np.float32(2.5),
    "float tensor": torch.tensor(2.0),
    "text": "2",
    "array of one": np.array([2]),
    "tensor of one": torch.tensor([2]),
    "meta tensor": torch.tensor(2, device="meta"),
    "complex": 2 + 0j,
}
SPEC = rinsc.model_spec("A^3B", preset="tiny", layers=2, vocab_size=64, context=16)
DRAWN = rinsc.model_spec("A^9{sample=uniform(1, 9), init=noise, inject=add}", preset="tiny")
IDS = torch.arange(5)[None]


@cache
def _module() -> Any:
    torch.manual_seed(0)
    return rinsc.to_torch(SPEC).eval()


def _drawn(**given: Any) -> list[Any]:
    """What three passes draw; the callers' numbers stay as they are."""
    before = {name: repr(value) for name, value in given.items()}
    draws = _drawing_module().draws
    draws.seed = draws.step = 0
    for name, value in given.items():
        setattr(draws, name, value)
    drawn = [repr(draws.fill(None, None, rows=4)) for _ in range(2)]
    with draws.held(given.get("step", 5)):
        drawn += [repr(draws.fill(None, None, rows=4)) for _ in range(2)]
    assert {name: repr(value) for name, value in given.items()} == before
    return [*drawn, repr(draws.seed), repr(draws.step)]


@cache
def _drawing_module() -> Any:
    return rinsc.to_torch(DRAWN)


@cache
def _hosted() -> Any:
    torch.manual_seed(0)
    model: Any = causal_lm(SPEC)
    return model.eval()


@cache
def _session() -> rinsc.Session:
    return rinsc.Session(rinsc.to_onnx(_module(), "dynamic"))


def _hosted_config(rounds: Any) -> str:
    config = RinscConfig(spec={"signature": "A^3B", "preset": "tiny"})
    config.rounds = rounds
    return str(config.to_json_string())


def _noise(seed: Any) -> list[float]:
    torch.manual_seed(0)
    model: Any = rinsc.to_torch(
        rinsc.model_spec("A^3{init=noise, inject=add}", preset="tiny", layers=1)
    )
    with torch.no_grad():
        return list(model(IDS, noise_seed=seed).flatten().tolist())


ENTRIES: dict[str, Callable[[Any], object]] = {
    "module": lambda n: _module()(IDS, rounds=n).tolist(),
    "module, by name": lambda n: _module()(IDS, rounds={"A": n}).tolist(),
    "noise_seed": _noise,
    "draw_rounds": lambda n: [rinsc.draw_rounds(DRAWN, n, n), rinsc.draw_rounds(DRAWN, 7, n)],
    "module, draws": lambda n: _drawn(seed=n),
    "module, step of draws": lambda n: _drawn(step=n),
    "RoundsCallback": lambda n: vars(RoundsCallback(n)),
    "hosted": lambda n: _hosted()(IDS, rounds=n).logits.tolist(),
    "hosted, by name": lambda n: _hosted()(IDS, rounds={"A": n}).logits.tolist(),
    "generate": lambda n: _hosted().generate(IDS, max_new_tokens=2, rounds=n).tolist(),
    "causal_lm": lambda n: causal_lm(SPEC, rounds=n).config.to_json_string(),
    "causal_lm, by name": lambda n: causal_lm(SPEC, rounds={"A": n}).config.to_json_string(),
    "config.rounds": _hosted_config,
    "config": lambda n: RinscConfig(
        spec={"signature": "A^3B", "preset": "tiny", "layers": n}, rounds=n
    ).to_json_string(),
    "session": lambda n: _session().logits(IDS.numpy(), rounds=n).tolist(),
    "session, by name": lambda n: _session().logits(IDS.numpy(), rounds={"A": n}).tolist(),
    "session.generate": lambda n: _session().generate([1, 2], n, rounds=n),
    "stop_ids": lambda n: _session().generate([1, 2], 4, stop_ids=[n]),
    "prompt": lambda n: _session().generate([1, n], 1),
    "top_k": lambda n: asdict(Sampling(top_k=n)),
    "seed": lambda n: asdict(Sampling(seed=n)),
    "threads": lambda n: rinsc.Session(rinsc.to_onnx(_module()), threads=n).rounds,
    "to_onnx": lambda n: rinsc.to_onnx(_module(), n).metadata["rinsc.rounds"],
    "to_onnx, by name": lambda n: rinsc.to_onnx(_module(), {"A": n}).metadata["rinsc.rounds"],
    "cost rounds": lambda n: json.dumps(rinsc.cost_report(SPEC, rounds=n).as_dict()),
    "cost rounds, by name": lambda n: json.dumps(
        rinsc.cost_report(SPEC, rounds={"A": n}).as_dict()
    ),
    "cost seq": lambda n: json.dumps(rinsc.cost_report(SPEC, seq=n).as_dict()),
    "cost batch": lambda n: json.dumps(rinsc.cost_report(SPEC, batch=n).as_dict()),
    "forward_flops": lambda n: forward_flops(build_graph(SPEC), n, batch=n, rounds=n),
    "training_flops": lambda n: training_flops_per_token(SPEC, n, rounds={"A": n}),
    "memory seq": lambda n: asdict(memory(build_graph(SPEC), n)),
    "memory batch": lambda n: asdict(memory(build_graph(SPEC), 4, batch=n)),
    "match tokens": lambda n: rinsc.match_compute(SPEC, SPEC, tokens=n, batch_tokens=2, seq=2),
    "match batch": lambda n: rinsc.match_compute(SPEC, SPEC, tokens=4, batch_tokens=n, seq=2),
    "match seq": lambda n: rinsc.match_compute(SPEC, SPEC, tokens=4, batch_tokens=4, seq=n),
    "unroll": lambda n: [str(step) for step in rinsc.unroll(build_graph(SPEC), n).steps()],
    "at_rounds": lambda n: [step.name for step in at_rounds(build_graph(SPEC), n).loops()],
    "executed_layers": lambda n: build_graph(SPEC).executed_layers(n),
    "visit_counts": lambda n: repr(build_graph(SPEC).visit_counts({"A": n})),
    "bind": lambda n: rinsc.model_spec("A^nB", preset="tiny", bind={"n": n}).text,
    "dimension": lambda n: spec_to_toml(rinsc.model_spec("AB", preset="tiny", layers=n)),
    "ModelSpec": lambda n: spec_to_toml(
        rinsc.ModelSpec(rinsc.parse("AB"), n, 64, n, n, 176, 512, 128)
    ),
    "train": lambda n: config_to_toml(TrainConfig(steps=n, seed=n, keep=n, rounds={"A": n})),
    "rounds_schedule": lambda n: config_to_toml(TrainConfig(rounds_schedule=((0.0, n),))),
    "enumerate": lambda n: [each.signature for each in variants(SPEC, n, n)],
}


@pytest.mark.parametrize("kind", TWOS)
@pytest.mark.parametrize("entry", ENTRIES)
def test_a_whole_number_of_a_library_is_the_number(entry: str, kind: str) -> None:
    assert ENTRIES[entry](TWOS[kind]) == ENTRIES[entry](2)


SPELLED = (
    *("module", "hosted", "generate", "causal_lm", "config.rounds", "session"),
    *("to_onnx", "cost rounds", "unroll", "at_rounds"),
)


@pytest.mark.parametrize("entry", ENTRIES)
def test_what_is_no_whole_number_is_one_clear_error(entry: str) -> None:
    # Emitted modules know no class of ours; of what a tensor holds the noise judges as torch does.
    emitted: tuple[type[Exception], ...] = (ValueError,) if "module" in entry else ()
    emitted = (ValueError, TypeError) if entry == "noise_seed" else emitted
    unsure = ("bool tensor", "tensor of one", "meta tensor") if entry == "noise_seed" else ()
    spelled = ("text",) if entry in SPELLED else ()  # "2" says rounds, and nothing else
    for value in (value for name, value in NO_NUMBERS.items() if name not in (*unsure, *spelled)):
        with pytest.raises((rinsc.RinscError, *emitted)):
            ENTRIES[entry](value)


def test_verify_takes_a_seed_of_numpy() -> None:
    spec = rinsc.model_spec("A^2", preset="tiny", layers=1)
    of_numpy: Any = np.int64(3)
    assert rinsc.verify(spec, seed=of_numpy) == rinsc.verify(spec, seed=3)
    for seed in (True, 2.5):
        with pytest.raises(rinsc.RinscError):
            rinsc.verify(spec, seed=seed)  # type: ignore[arg-type]


REALS: dict[str, Any] = {
    "float32": np.float32(0.3),
    "float64": np.float64(0.3),
    "array": np.array(0.3),
    "tensor": torch.tensor(0.3),
    "fraction": Fraction(3, 10),
    "decimal": Decimal("0.3"),
}
REAL_ENTRIES: dict[str, Callable[[Any], object]] = {
    "temperature": lambda x: asdict(Sampling(temperature=x)),
    "top_p": lambda x: asdict(Sampling(top_p=x)),
    "rope_theta": lambda x: spec_to_toml(rinsc.model_spec("A", preset="tiny", rope_theta=x)),
    "norm_eps": lambda x: spec_to_toml(rinsc.model_spec("A", preset="tiny", norm_eps=x)),
    "learning_rate": lambda x: config_to_toml(TrainConfig(learning_rate=x, betas=(x, x))),
    "rounds_schedule": lambda x: config_to_toml(TrainConfig(rounds_schedule=((0.0, 1), (x, 2)))),
    "exit": lambda x: Exit("state", x).text,
    "limits": lambda x: asdict(Limits(min_cost_ratio=x)),
}


@pytest.mark.parametrize("kind", REALS)
@pytest.mark.parametrize("entry", REAL_ENTRIES)
def test_a_real_number_of_a_library_is_the_number(entry: str, kind: str) -> None:
    assert REAL_ENTRIES[entry](REALS[kind]) == REAL_ENTRIES[entry](float(REALS[kind]))


@pytest.mark.parametrize("entry", REAL_ENTRIES)
def test_what_is_no_real_number_is_one_clear_error(entry: str) -> None:
    for value in (True, np.True_, "0.3", b"1", 0.3 + 0j, np.complex64(1), np.array([0.3]), [0.3]):
        with pytest.raises(rinsc.RinscError):
            REAL_ENTRIES[entry](value)


def test_truth_values_and_texts_of_numpy_are_plain_in_a_spec() -> None:
    spec = rinsc.model_spec("A", preset="tiny", tied_embedding=np.False_, kind=np.str_("gpt"))  # type: ignore[arg-type]
    assert spec_to_toml(spec) == spec_to_toml(
        rinsc.model_spec("A", preset="tiny", tied_embedding=False, kind="gpt")
    )
    assert type(with_signature(spec, "AB").kind) is str


@given(st.integers(-(1 << 70), 1 << 70))
def test_python_s_own_numbers_are_themselves(number: int) -> None:
    assert whole(number) == real(number) == plain(number) == number
    assert truth(number) is None
    assert real(float(number)) == float(number)
    assert whole(float(number)) is None


def test_numbers_beyond_all_floats_are_infinite() -> None:
    assert real(Fraction(10**400)) == math.inf
    assert real(Decimal("-1e999")) == -math.inf


@pytest.mark.parametrize("rounds", [2, 3, {"A": 2}, torch.tensor(2)], ids=str)
def test_torch_compile_traces_the_whole_forward(rounds: Any) -> None:
    compiled: Any = torch.compile(_module(), fullgraph=True, backend="eager")
    with torch.no_grad():
        assert torch.equal(compiled(IDS, rounds=rounds), _module()(IDS, rounds=rounds))
