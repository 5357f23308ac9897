"""Sessions that draft at few rounds: the tokens of plain decoding, in fp32 products."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rinsc.backends.onnx import Session, to_onnx
from rinsc.backends.torch.generating import token_steps
from rinsc.drafting import Drafts
from rinsc.errors import RinscError
from rinsc.generation import checked_request
from rinsc.graph import Rounds
from rinsc.sampling import Sampling
from rinsc.spec import model_spec
from tests.onnx.models import lively_model

SPEC = model_spec("(A^3)B", preset="tiny", vocab_size=53, context=300)
NESTED = model_spec("(AB^2)^3C", preset="tiny", layers=3, vocab_size=53, context=64)
SHARED = model_spec("A^3{kv=last}B", preset="tiny", layers=2, vocab_size=53, context=64)
MODEL = lively_model(SPEC)


@pytest.fixture(scope="module", params=["fp32", "fp8"])
def session(request: pytest.FixtureRequest) -> Session:
    model = to_onnx(MODEL, "dynamic", cache=True, precision=request.param)
    return Session(model, threads=1)


@pytest.mark.parametrize("draft", [1, 2])
@pytest.mark.parametrize("prompt", [[3, 1, 4], [7] * 290])
def test_greedy_tokens_are_those_of_plain_decoding(
    session: Session, draft: int, prompt: list[int]
) -> None:
    """Hundreds of them, past the first capacity of the cache and to the end of the context."""
    count = 320 - len(prompt)
    request = checked_request(prompt, count, session.spec)
    told = Drafts()
    steps = session.steps(request, Sampling(), 3, draft, drafts=told)
    assert [token for (token,) in steps] == session.generate(prompt, count, rounds=3)
    assert told.drafted > 0 or draft == 2  # which rarely pays
    assert told.drafted >= told.accepted


def test_a_verification_writes_over_the_drafts(session: Session) -> None:
    """Its logits are those of a sequence that never drafted."""
    model = session._drafted(session.drafting(1, 3), 3)
    model.begin([[3, 1, 4]])
    for token in (5, 6, 7, 8):
        model.draft([0], [token])
    (logits,) = model.verify([0], [[9, 2]])
    plain = session.logits([[3, 1, 4, 9, 2]], rounds=3)[0, 3:]
    np.testing.assert_allclose(logits, plain, atol=1e-4)
    model.keep([0], [1])
    (logits,) = model.verify([0], [[6, 1, 1]])
    plain = session.logits([[3, 1, 4, 9, 6, 1, 1]], rounds=3)[0, 4:]
    np.testing.assert_allclose(logits, plain, atol=1e-4)


def test_a_draft_is_the_model_at_few_rounds() -> None:
    session = Session(to_onnx(MODEL, "dynamic", cache=True), threads=1)
    drafting = session.drafting(1, 3)
    model = session._drafted(drafting, 3)
    model.begin([[3]])
    # One position in: keys of the first round are the same at 1 and at 3 rounds, B's are not.
    past = session.step([[3]], rounds=3)[1]
    assert past.length == 1
    (logits,) = model.draft([0], [5])
    few, many = (session.logits([[3, 5]], rounds=count)[0, -1] for count in (1, 3))
    assert np.abs(logits - few).max() < np.abs(logits - many).max()


def test_batches_and_streams_give_the_same_tokens(session: Session) -> None:
    prompts = [[3, 1, 4], [9], [2, 6]]
    plain = session.generate(prompts, 20, rounds=3)
    assert session.generate(prompts, 20, rounds=3, draft_rounds=1) == plain
    assert list(session.stream(prompts[0], 20, rounds=3, draft_rounds={"A": 1})) == plain[0]
    stops = [plain[0][7]]
    stopped = session.generate(prompts[0], 20, rounds=3, stop_ids=stops)
    assert session.generate(prompts[0], 20, rounds=3, stop_ids=stops, draft_rounds=1) == stopped


@pytest.mark.parametrize("draft", [1, {"AB": 1}, {"AB": 2}, {"AB": 1, "B": 1}])
def test_repeats_within_repeats(draft: Rounds) -> None:
    session = Session(to_onnx(lively_model(NESTED), "dynamic", cache=True), threads=1)
    plain = session.generate([3, 1, 4], 50)
    assert session.generate([3, 1, 4], 50, draft_rounds=draft) == plain


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.5])
def test_draws_are_those_of_pytorch(temperature: float) -> None:
    """With one seed both runtimes draw the same drafts and refuse the same ones.

    Of layers behind a repeat a draft sees here what was verified, in PyTorch what drafts left. So
    there are none.
    """
    spec = model_spec("P(AB^2)^3", preset="tiny", layers=3, vocab_size=53, context=64)
    model = lively_model(spec)
    session = Session(to_onnx(model, "dynamic", cache=True), threads=1)
    told = {"onnx": Drafts(), "torch": Drafts()}
    request = checked_request([3, 1, 4], 50, spec)
    sampling = Sampling(temperature=temperature, seed=5)
    drawn = list(session.steps(request, sampling, None, 1, drafts=told["onnx"]))
    assert drawn == list(token_steps(model, request, sampling, None, 1, drafts=told["torch"]))
    assert told["onnx"] == told["torch"]
    assert told["onnx"].drafted > 0


@pytest.mark.parametrize(
    ("changes", "asked", "words"),
    [
        ({"rounds": 3}, {}, "fixed"),
        ({"cache": False}, {}, "no cache"),
        ({"precision": "int8-dynamic"}, {}, "together"),
        ({"precision": "int8"}, {}, "together"),
        ({"precision": "int4"}, {}, "together"),
        ({"precision": "fp16"}, {}, "together"),
        ({"portable": True}, {}, "in place"),
        ({"spec": NESTED}, {"draft_rounds": {"B": 1}}, "in one piece"),
        ({"spec": SHARED, "exit": "state:0.01"}, {}, "kv="),
        ({}, {"draft_rounds": 3}, "equals"),
        ({}, {"draft_rounds": 4}, "above"),
        ({}, {"draft_rounds": 0}, "0"),
    ],
)
def test_what_cannot_draft_says_why(
    changes: dict[str, Any], asked: dict[str, Any], words: str
) -> None:
    options = {"rounds": "dynamic", "cache": True, **changes}
    model = lively_model(options.pop("spec", SPEC))
    session = Session(to_onnx(model, options.pop("rounds"), **options), threads=1)
    with pytest.raises(RinscError, match=words) as caught:
        session.generate([1], 4, **{"draft_rounds": 1, **asked})
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].hint
