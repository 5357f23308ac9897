"""Every public entry that takes rounds reads every way of saying them, with one result or error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rinsc
from rinsc.backends.hf import causal_lm
from rinsc.errors import RinscError
from rinsc.graph import resolve_rounds, tower_rounds, unroll
from rinsc.graph.passes import at_rounds
from rinsc.progress import SilentProgress

SPEC = rinsc.model_spec("(A^3)B", preset="tiny", layers=2)
TWO = rinsc.towers_spec("x: A[1]^3, y: A[1]C[1]", preset="tiny")
GRAPH, TOWERS = rinsc.build_graph(SPEC), rinsc.build_graph(TWO)
IDS = [[1, 2, 3]]

WAYS: tuple[Any, ...] = (
    *(2, np.int64(2), np.array(2), torch.tensor(2), "2", " 2 "),
    *({"A": 2}, {"A": np.int32(2)}, "A=2", " A = 2", resolve_rounds(GRAPH, 2)),
)
WRONG: tuple[tuple[str, Any], ...] = (
    *(("bad-rounds", rounds) for rounds in (0, -1, 1025, 1.5, True, "0", "two", "", "A=0", "A")),
    *(("bad-rounds", rounds) for rounds in ({"A": 0}, {"A": "2"}, "A=2,A=3", "1.5", object())),
    *(("unknown-repeat", rounds) for rounds in ({"Z": 2}, "Z=2", "A=2,Z=1")),
)


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Callable[[Any], object]]:
    """What takes rounds, each with what it gives for them in a form that can be compared."""
    torch.manual_seed(0)
    module, ids = rinsc.to_torch(SPEC).eval(), torch.tensor(IDS)
    hosted = causal_lm(SPEC).eval()  # type: ignore[no-untyped-call]
    plain = rinsc.Session(rinsc.to_onnx(module, rounds="dynamic"))
    cached = rinsc.Session(rinsc.to_onnx(module, rounds="dynamic", cache=True))
    files = (tmp_path_factory.mktemp("written") / f"{n}.py" for n in range(1000))

    def logits(of: Any, rounds: Any) -> list[float]:
        with torch.no_grad():
            found = of(ids, rounds=rounds)
        return list(getattr(found, "logits", found).flatten()[:5].tolist())

    def exported(rounds: Any) -> str:
        form = rinsc.TorchForm(rounds)
        return rinsc.export(SPEC, next(files), form, progress=SilentProgress()).path.read_text()

    return {
        "cost_report": lambda rounds: rinsc.cost_report(SPEC, rounds=rounds).as_dict(),
        "unroll": lambda rounds: [v.block for v in unroll(GRAPH, rounds).visits()],
        "at_rounds": lambda rounds: at_rounds(GRAPH, rounds),
        "resolve_rounds": lambda rounds: dict(resolve_rounds(GRAPH, rounds)),
        "module": lambda rounds: logits(module, rounds),
        "module, positional": lambda rounds: module(ids, rounds).detach()[0, 0, 0].item(),
        "transformers": lambda rounds: logits(hosted, rounds),
        "to_onnx": lambda rounds: rinsc.Session(rinsc.to_onnx(module, rounds)).rounds,
        "session": lambda rounds: plain.logits(IDS, rounds)[0, 0, 0].item(),
        "session with a cache": lambda rounds: cached.logits(IDS, rounds)[0, 0, 0].item(),
        "export": exported,
        "generate": lambda rounds: cached.generate(IDS[0], 2, rounds=rounds),
    }


def _as_towers(rounds: Any) -> Any:
    """The same of a tower called x."""
    if isinstance(rounds, dict):
        return {f"x.{name}": count for name, count in rounds.items()}
    is_named = isinstance(rounds, str) and "=" in rounds
    return ",".join(f"x.{p.strip()}" for p in rounds.split(",")) if is_named else rounds


def test_every_way_gives_one_result(entries: dict[str, Callable[[Any], object]]) -> None:
    for name, entry in entries.items():
        results = [entry(way) for way in WAYS]
        assert all(result == results[0] for result in results), name
        if name != "generate":  # untrained, it repeats one token at any rounds
            assert entry(3) != results[0], name


def test_every_mistake_has_one_code(entries: dict[str, Callable[[Any], object]]) -> None:
    for name, entry in entries.items():
        for code, rounds in WRONG:
            with pytest.raises(RinscError) as caught:
                entry(rounds)
            assert caught.value.code == code, (name, rounds)


def test_towers_read_every_way() -> None:
    module = rinsc.to_torch(TWO).eval()
    session = rinsc.TowersSession(rinsc.to_onnx(module, rounds="dynamic"))
    ids = {"x": torch.tensor(IDS), "y": torch.tensor(IDS)}
    arrays = {name: tensor.numpy() for name, tensor in ids.items()}
    entries: dict[str, Callable[[Any], object]] = {
        "tower_rounds": lambda rounds: tower_rounds(TOWERS, rounds),
        "module": lambda rounds: module(**ids, rounds=rounds)["x"][0, 0, 0].item(),
        "session": lambda rounds: session.outputs(arrays, rounds)["x"][0, 0, 0].item(),
        "cost": lambda rounds: rinsc.cost_report(TWO, rounds=rounds).as_dict(),
    }
    for name, entry in entries.items():
        results = [entry(_as_towers(way)) for way in WAYS]
        assert all(result == results[0] for result in results), name
        assert entry(3) != results[0], name
        for code, rounds in WRONG:
            with pytest.raises(RinscError) as caught:
                entry(_as_towers(rounds))
            assert caught.value.code == code, (name, rounds)


def test_a_forward_pass_is_traced_whole_at_any_rounds() -> None:
    module = rinsc.to_torch(SPEC).eval()
    traced = torch.compile(module, backend="eager", fullgraph=True)
    ids = torch.tensor(IDS)
    with torch.no_grad():
        for rounds in (None, 2, {"A": 4}):
            torch.testing.assert_close(traced(ids, rounds=rounds), module(ids, rounds=rounds))


def test_checked_rounds_are_not_checked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = resolve_rounds(GRAPH, 2)
    monkeypatch.setattr("rinsc.graph.rounds.checked_count", None)
    assert resolve_rounds(GRAPH, rounds) is rounds
    with pytest.raises(TypeError):
        rounds["A"] = 0


def test_a_text_may_list_several(tmp_path: Path) -> None:
    assert rinsc.graph.several_rounds(GRAPH, "A=1..3") == [{"A": 1}, {"A": 2}, {"A": 3}]
    assert rinsc.graph.several_rounds(GRAPH, ("1,2", "A=2,4")) == [{"A": 1}, {"A": 2}, {"A": 4}]
    assert rinsc.graph.several_rounds(GRAPH, [3, "1"]) == [{"A": 3}, {"A": 1}]
