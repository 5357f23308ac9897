"""PyTorch drafts at few rounds: the tokens of plain decoding, and fewer passes at all rounds."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rinsc.backends.torch import CompiledModule, to_torch
from rinsc.backends.torch.generating import (
    CutSequence,
    check_drafting,
    generate_ids,
    token_steps,
)
from rinsc.drafting import Drafts
from rinsc.errors import RinscError
from rinsc.generation import checked_request
from rinsc.graph import RoundsWarning, resolve_rounds
from rinsc.layers import layer_kind
from rinsc.sampling import Sampling
from rinsc.spec import ModelSpec, model_spec
from tests.kinds import KINDS
from tests.onnx.models import lively_model, small_spec
from tests.specs import specs

CAUSAL = [kind for kind in KINDS if layer_kind(kind).causal]
SIGNATURES = ("(A^3)B", "A(BC)^4", "(AB^2)^2C", "A^3{adapter=lora(2)}B")


def drafted(
    model: CompiledModule,
    prompt: list[int],
    count: int,
    draft: Any,
    *,
    sampling: Sampling | None = None,
    rounds: Any = None,
) -> tuple[list[int], Drafts]:
    told, request = Drafts(), checked_request(prompt, count, model.spec)
    chosen = sampling or Sampling()
    steps = token_steps(model, request, chosen, rounds, draft, drafts=told)
    return [token for (token,) in steps if token is not None], told


@pytest.mark.parametrize("signature", SIGNATURES)
def test_greedy_tokens_are_those_of_plain_decoding(signature: str) -> None:
    """Past the end of the context, too, where the window moves."""
    model = lively_model(small_spec(signature, context=64))
    plain = generate_ids(model, [3, 1, 4], 70, sampling=Sampling())
    ids, told = drafted(model, [3, 1, 4], 70, 1)
    assert ids == plain
    one: Any = np.int64(1)
    assert ids == generate_ids(model, [3, 1, 4], 70, sampling=Sampling(), draft_rounds=one)
    assert told.drafted > 0


@pytest.mark.parametrize("kind", CAUSAL)
def test_every_kind_drafts(kind: str) -> None:
    model = lively_model(small_spec("A(BC)^4", kind=kind, context=64))
    ids, told = drafted(model, [3, 1, 4], 40, 1)
    assert ids == generate_ids(model, [3, 1, 4], 40, sampling=Sampling())
    assert told.drafted > 0


def outcome(model: CompiledModule, **asked: Any) -> list[Any]:
    """The ids after a prompt, past the end of the context; or the codes of what is wrong."""
    prompt, sampling = [1] * max(1, model.spec.context - 12), Sampling()
    try:
        with warnings.catch_warnings(action="ignore", category=RoundsWarning):
            return generate_ids(model, prompt, 16, sampling=sampling, **asked)
    except RinscError as error:
        return [problem.code for problem in error.problems]


@settings(max_examples=15)
@given(spec=specs(options=True, kinds=CAUSAL, max_visits=6), rounds=st.integers(2, 4))
def test_random_models_draft_or_say_in_one_error_why_not(spec: ModelSpec, rounds: int) -> None:
    if any(not layer_kind(kind).causal for kind in spec.block_kinds.values()):
        return
    model = lively_model(spec)
    asked = rounds if list(model.graph.dials()) else None
    # Repeats within repeats at four rounds can be a thousand visits.
    assume(sum(model.graph.visit_counts(resolve_rounds(model.graph, asked)).values()) <= 40)
    made = outcome(model, rounds=asked, draft_rounds=1)
    assert made in (["bad-draft"], outcome(model, rounds=asked))


@pytest.fixture(scope="module")
def learned() -> CompiledModule:
    """A model that has learned, at every number of rounds, to count to nine."""
    torch.manual_seed(0)
    model = to_torch(
        model_spec("A^4B", layers=2, width=32, heads=2, mlp_width=64, vocab_size=11, context=128)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(120):
        starts = torch.randint(9, (8, 1))
        rows = (starts + torch.arange(33)) % 9
        logits = model(rows[:, :-1], rounds=1 + step % 4)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model.eval()


def test_good_drafts_save_passes(learned: CompiledModule, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, int]] = []
    right = CutSequence.run

    def counted(self: CutSequence, tokens: list[int]) -> Any:
        calls.append((self.rounds, len(tokens)))
        return right(self, tokens)

    monkeypatch.setattr(CutSequence, "run", counted)
    ids, told = drafted(learned, [0, 1, 2], 60, 1)
    assert ids == [number % 9 for number in range(3, 63)]
    assert ids == generate_ids(learned, [0, 1, 2], 60, sampling=Sampling())
    assert told.accepted > 40
    full = [count for rounds, count in calls if rounds is None]
    assert len(full) == told.passes + 1 <= 20  # plain decoding has 60
    # The draft runs what it has not seen, and no token twice unless it was taken back.
    assert sum(count for rounds, count in calls if rounds is not None) <= 3 + 60 + told.drafted


def test_draws_follow_the_distribution_of_plain_decoding(learned: CompiledModule) -> None:
    """Pairs of tokens after a prompt that it never saw: chi-square of two samples."""
    from scipy.stats import chi2_contingency

    counts = np.zeros((2, 11 * 11))
    for seed in range(100):
        sampling = Sampling(temperature=2.0, seed=seed)
        plain = generate_ids(learned, [5, 5], 3, sampling=sampling)
        ids, _ = drafted(learned, [5, 5], 3, 1, sampling=sampling)
        for place, (_, second, third) in enumerate((plain, ids)):
            counts[place, second * 11 + third] += 1
    common = counts.sum(axis=0) >= 5
    merged = np.column_stack([counts[:, common], counts[:, ~common].sum(axis=1)])
    assert common.sum() > 6
    assert chi2_contingency(merged).pvalue > 1e-3


def test_several_rows_are_those_of_plain_decoding(learned: CompiledModule) -> None:
    prompts = [[0, 1, 2], [4]]
    request, told = checked_request(prompts, 5, learned.spec), Drafts()
    rows = list(token_steps(learned, request, Sampling(), 3, 1, drafts=told))
    plain = generate_ids(learned, prompts, 5, sampling=Sampling(), rounds=3)
    assert [list(row) for row in zip(*rows, strict=True)] == plain


@pytest.mark.parametrize(
    ("signature", "draft", "words"),
    [
        ("A^3B", 3, "equals"),
        ("A^3B", np.int64(4), "above"),
        ("A^3B", 0, "0"),
        ("A^3B", 1.5, "1.5"),
        ("AB", 1, "needs a repeat"),
        ("A^3{init=noise, inject=add}B", 1, "noise"),
        ("A^3{kv=first}B", 1, "kv="),
        ("A^3{kv=last}B", 1, "kv="),
    ],
)
def test_what_cannot_draft_says_why(signature: str, draft: Any, words: str) -> None:
    model = to_torch(small_spec(signature))
    with pytest.raises(RinscError, match=words) as caught:
        check_drafting(model, draft, None)
    (problem,) = caught.value.problems
    assert problem.hint


def test_what_is_not_lossless_is_refused() -> None:
    model = to_torch(small_spec())
    with pytest.raises(RinscError, match="needs the cache"):
        check_drafting(model, 1, None, cache=False)
    with pytest.raises(RinscError, match="half precision"):
        check_drafting(model.to(torch.bfloat16), 1, None)
