"""In training, modules draw the rounds and the noise that they are not given."""

from __future__ import annotations

import copy
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import rinsc
from rinsc.backends.torch import compile_blocks, emit_source
from rinsc.backends.torch.decoding import cached_module, hosted_class
from rinsc.graph import build_graph, unroll
from rinsc.graph.law import noise_seed_of
from tests.onnx.models import small_spec

SKIPPED = small_spec("A^6{skip=0.5}B")
RICH = small_spec("P(A^4{skip=0.4}B^2)^3{inject=add, init=noise, sample=uniform(1, 3)}")
SAMPLED = "A^4{sample=choice(1, 3, 7)}B^3{sample=poisson_lognormal(3, 0.5)}C^2"
IDS = torch.arange(10).view(2, 5)


def training(spec: rinsc.ModelSpec = SKIPPED, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return rinsc.to_torch(spec).train()


def visits_of(module: nn.Module, block: str, run: Callable[[], object]) -> int:
    """How often a block's ``forward`` is called while something runs."""
    calls: list[int] = []
    handle = module.get_submodule(block).register_forward_hook(lambda *_: calls.append(1))
    run()
    handle.remove()
    return len(calls)


def visits_in_steps(module: Any, steps: int, *given: Any, block: str = "A") -> list[int]:
    return [visits_of(module, block, lambda: module(*given)) for _ in range(steps)]


def skipped_by_hand(step: int, seed: int = 0) -> int:
    """Stochastic recursion as the paper has it: each later round is run with probability 1/2."""
    generator = random.Random(f"rounds of step {step} with seed {seed}")
    return 1 + [generator.random() >= 0.5 for _ in range(5)].count(True)


def test_a_training_pass_draws_and_an_evaluation_does_not() -> None:
    model = training()
    expected = [skipped_by_hand(step) for step in range(12)]
    assert len(set(expected)) > 3
    assert visits_in_steps(model, 12, IDS) == expected
    assert visits_in_steps(model.eval(), 3, IDS) == [6, 6, 6]
    assert visits_in_steps(model.train(), 2, IDS) == [skipped_by_hand(12), skipped_by_hand(13)]


def test_every_form_draws() -> None:
    expected = [skipped_by_hand(step) for step in range(8)]
    hosted = hosted_class(build_graph(SKIPPED))().train()
    assert visits_in_steps(hosted, 8, IDS, torch.arange(5)[None]) == expected
    cached = cached_module(training())
    assert visits_in_steps(cached, 8, IDS) == expected


def test_other_laws_run_what_the_library_draws() -> None:
    """Rounds by calls of each block; the law of the library's draws has tests of its own."""
    spec = small_spec(SAMPLED, layers=3)
    model = training(spec)
    calls: list[str] = []
    for name in "ABC":
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: calls.append(name))
    for step in range(10):
        calls.clear()
        model(IDS)
        assert {name: calls.count(name) for name in "ABC"} == rinsc.draw_rounds(spec, 0, step)
    assert len({tuple(rinsc.draw_rounds(spec, 0, step).items()) for step in range(10)}) > 5


def test_seed_and_step_say_what_is_drawn() -> None:
    model = training()
    model.draws.seed = 7
    assert visits_in_steps(model, 6, IDS) == [skipped_by_hand(step, 7) for step in range(6)]
    model.draws.step = 2
    assert visits_in_steps(model, 3, IDS) == [skipped_by_hand(step, 7) for step in (2, 3, 4)]


def test_torchs_own_seed_changes_nothing() -> None:
    """It often differs between ranks, and users set it before each pass."""
    model, found = training(), []
    for step in range(6):
        torch.manual_seed(step % 2)
        found += visits_in_steps(model, 1, IDS)
    assert found == [skipped_by_hand(step) for step in range(6)]


def test_what_is_given_wins_and_draws_nothing() -> None:
    model = training(RICH)
    state = torch.get_rng_state()
    for rounds in (2, {"AB": 1, "A": 4}):
        expected = copy.deepcopy(model).eval()(IDS, rounds=rounds, noise_seed=3)
        assert torch.equal(model(IDS, rounds=rounds, noise_seed=3), expected)
    assert model.draws.step == 0
    assert torch.equal(torch.get_rng_state(), state)
    model(IDS, rounds={"A": 1})  # what is left out is drawn
    assert model.draws.rounds == rinsc.draw_rounds(RICH, 0, 0) | {"A": 1}


def test_noise_is_fresh_in_training_and_that_of_evaluation_elsewhere() -> None:
    model = training(small_spec("P A^2{inject=add, init=noise}"))
    evaluated = model.eval()(IDS)
    assert torch.equal(evaluated, model(IDS, noise_seed=0))
    model.train()
    passes = [model(IDS) for _ in range(3)]
    for step, logits in enumerate(passes):
        assert not torch.equal(logits, evaluated)
        assert torch.equal(logits, model(IDS, noise_seed=noise_seed_of(0, step)))
    assert not torch.equal(passes[0], passes[1])
    assert torch.equal(model(IDS, noise_seed=0), evaluated)


def test_parts_of_a_step_are_the_whole_batch() -> None:
    """Within `held` the rounds stay, and each row has the noise that it has in the whole batch."""
    model, ids = training(RICH), cast(Any, torch.arange(20).view(4, 5))
    whole = model(ids)
    model.draws.step = 0
    with model.draws.held():
        parts = torch.cat([model(part) for part in ids.split(1)])
    torch.testing.assert_close(parts, whole)
    assert model.draws.step == 1
    with model.draws.held(5):
        model(ids)
    assert model.draws.rounds == rinsc.draw_rounds(RICH, 0, 5)


@pytest.mark.parametrize("preserve", [True, False])
def test_a_checkpoint_around_the_model_sees_the_rounds_of_its_pass(preserve: bool) -> None:
    model = training(RICH)
    model.draws.step = next(
        step
        for step in range(100)
        if rinsc.draw_rounds(RICH, 0, step) != rinsc.draw_rounds(RICH, 0, step + 1)
    )
    plain, passes = copy.deepcopy(model), (IDS,) if not preserve else (IDS, IDS, IDS + 1)
    kept: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": preserve}
    for module, run in ((plain, plain), (model, lambda ids: checkpoint(model, ids, **kept))):
        # All passes first, so that what runs again is not what ran last.
        logits = [run(ids) for ids in passes]
        sum((n + 1) * each.square().sum() for n, each in enumerate(logits)).backward()
        assert module.draws.step == plain.draws.step
    for one, other in zip(plain.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_reentrant_checkpoints_see_the_rounds_of_their_pass() -> None:
    step = next(step for step in range(9) if skipped_by_hand(step) != skipped_by_hand(step + 1))
    model = training()
    model.draws.step = step
    start = torch.zeros((), requires_grad=True)
    logits = checkpoint(lambda start: model(IDS) + start, start, use_reentrant=True)
    assert visits_in_steps(model, 1, IDS) == [skipped_by_hand(step + 1)]
    again = visits_of(model, "A", lambda: logits.sum().backward())
    assert again == skipped_by_hand(step) != skipped_by_hand(step + 1)


def test_copies_go_on_by_themselves() -> None:
    model = training()
    model(IDS)
    copied = copy.deepcopy(model)
    expected = [skipped_by_hand(step) for step in (1, 2, 3)]
    assert visits_in_steps(copied, 3, IDS) == expected
    assert visits_in_steps(model, 3, IDS) == expected
    assert model.state_dict().keys() == rinsc.to_torch(SKIPPED).state_dict().keys()


def test_compiled_models_draw() -> None:
    plain, model = training(), training()
    whole: Any = torch.compile(model, backend="eager")
    blocks = compile_blocks(training())
    for _ in range(4):
        expected = plain(IDS)
        torch.testing.assert_close(whole(IDS), expected)
        torch.testing.assert_close(blocks(IDS), expected)
    assert model.draws.step == 4
    one_graph: Any = torch.compile(training(), backend="eager", fullgraph=True)
    torch.testing.assert_close(one_graph(IDS, rounds=2), plain(IDS, rounds=2))
    torch._dynamo.reset()
    with pytest.raises(Exception, match="give rounds=2, or leave out fullgraph"):
        one_graph(IDS)
    for spec, given in (
        (RICH, "give rounds=2 and noise_seed=step, or leave out fullgraph"),
        (
            small_spec("P A^2{inject=add, init=noise}"),
            "give noise_seed=step, or leave out fullgraph",
        ),
    ):
        torch._dynamo.reset()
        noisy: Any = torch.compile(training(spec), backend="eager", fullgraph=True)
        with pytest.raises(Exception, match=given):
            noisy(IDS)
        torch.testing.assert_close(
            noisy(IDS, rounds=1, noise_seed=3), training(spec)(IDS, rounds=1, noise_seed=3)
        )


def test_gradients_of_single_rows_are_those_of_the_drawn_rounds() -> None:
    """`torch.func.vmap` refuses random numbers."""
    model = training()
    weights = dict(model.named_parameters())

    def loss(weights: Any, ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = torch.func.functional_call(model, weights, (ids[None],))
        return logits.square().mean()

    found = torch.func.vmap(torch.func.grad(loss), (None, 0))(weights, IDS)
    loss_of_one = model(IDS[1:], rounds=skipped_by_hand(0)).square().mean()
    (expected,) = torch.autograd.grad(loss_of_one, [weights["A.0.query.weight"]])
    torch.testing.assert_close(found["A.0.query.weight"][1], expected)


def test_a_cached_text_keeps_the_rounds_that_it_started_with() -> None:
    cached = cached_module(training())
    cached.draws.step = next(step for step in range(9) if skipped_by_hand(step) != 6)
    rounds = skipped_by_hand(cached.draws.step)
    whole = cached(IDS, rounds=rounds)[0]
    logits, past = cached(IDS[:, :3])
    found = [logits]
    for place in (3, 4):
        logits, past = cached(IDS[:, place : place + 1], past)
        found.append(logits)
    torch.testing.assert_close(torch.cat(found, 1), whole)


def test_unrolled_models_and_models_that_draw_nothing_run_as_written() -> None:
    flat = rinsc.to_torch(unroll(build_graph(SKIPPED))).train()
    assert visits_in_steps(flat, 3, IDS) == [6, 6, 6]
    assert flat.draws is None
    plain = rinsc.to_torch(small_spec("A^3B")).train()
    assert visits_in_steps(plain, 3, IDS) == [3, 3, 3]
    noisy = rinsc.to_torch(unroll(build_graph(small_spec("P A^2{inject=add, init=noise}"))))
    assert not torch.equal(noisy(IDS), noisy(IDS))


def test_the_emitted_file_draws_without_rinsc(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(emit_source(build_graph(SKIPPED)))
    script = (
        "import sys, torch; from model import Model; m = Model(); n = []\n"
        "m.A.register_forward_hook(lambda *_: n.append(1))\n"
        "for step in range(6): n.clear(); m(torch.zeros(1, 3).long()); print(len(n))\n"
        "assert 'rinsc' not in sys.modules"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env={}, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.split() == [b"%d" % skipped_by_hand(step) for step in range(6)]
