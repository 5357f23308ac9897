"""Two gloo processes against one: steps, all-gathers, cut matrices, refusals."""

from __future__ import annotations

import random

import pytest
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore

from rinsc.backends.torch.distributed_check import GRADIENT_LIMIT
from rinsc.backends.torch.parallel import emitted_module, parallelize
from rinsc.errors import LoweringError
from rinsc.graph import build_graph
from tests.distributed import checks
from tests.distributed.ranks import Found, found
from tests.distributed.training import fresh, spec_of

WEIGHT_LIMIT = 2e-4  # AdamW divides small gradients by their size, and so their rounding
LIMIT = 2e-5


@pytest.mark.parametrize(("way", "name"), checks.CASES)
def test_three_steps_are_those_of_one_process(ranks: Found, way: str, name: str) -> None:
    for weights, gradients in found(ranks, f"steps: {way}, {name}"):
        assert weights <= WEIGHT_LIMIT
        assert gradients <= LIMIT


@pytest.mark.parametrize("way", [way for way in checks.WAYS if way != "tensor"])
def test_losses_that_layers_add_reach_the_gradients(ranks: Found, way: str) -> None:
    assert max(found(ranks, f"auxiliary: {way}")) <= LIMIT


@pytest.mark.parametrize(("way", "counts"), [("pin", [4, 2]), ("reshard", [6, 5])])
def test_all_gathers_of_a_step(ranks: Found, way: str, counts: list[int]) -> None:
    """A three times, B, C and the rest: forward and backward, the same in every step."""
    assert found(ranks, f"gathers: {way}") == [[counts, counts]] * 2


def test_pinned_blocks_with_other_rounds_on_each_rank(ranks: Found) -> None:
    assert max(found(ranks, "rounds by rank")) <= LIMIT


@pytest.mark.parametrize(("way", "hosted"), checks.DRAWING)
def test_every_rank_draws_the_same_rounds_and_its_own_noise(
    ranks: Found, way: str, hosted: bool
) -> None:
    """Rounds as the law has them, and of each row the noise that it has in the whole batch."""
    (one, first_row, *gaps), (other, other_row, *others) = found(ranks, f"draws: {way}, {hosted}")
    assert one == other == [{"A": skipped_by_hand(step)} for step in range(4)]
    assert len({each["A"] for each in one}) > 1
    assert max(*gaps, *others) <= LIMIT
    assert all(a != b for a, b in zip(first_row, other_row, strict=True))


def skipped_by_hand(step: int) -> int:
    """Stochastic recursion: each of five later rounds is run with probability 1/2."""
    generator = random.Random(f"rounds of step {step} with seed 0")
    return 1 + [generator.random() >= 0.5 for _ in range(5)].count(True)


def test_ranks_with_one_batch_have_one_noise(ranks: Found) -> None:
    one, other = found(ranks, "draws: tensor")
    assert one == other
    assert len(set(one)) == 3


@pytest.mark.parametrize("way", ["ddp, True", "pin, True", "pin, False", "reshard, False"])
def test_accumulated_gradients(ranks: Found, way: str) -> None:
    assert max(found(ranks, f"accumulation: {way}")) <= LIMIT


def test_an_evaluation_between_backward_and_step(ranks: Found) -> None:
    assert max(found(ranks, "looked at before the step")) <= LIMIT


@pytest.mark.parametrize("name", checks.TENSOR_SPECS)
def test_cut_matrices_compute_the_same(ranks: Found, name: str) -> None:
    for logits, gradients, cut in found(ranks, f"tensor: {name}"):
        assert logits <= LIMIT
        assert gradients <= LIMIT
        assert cut > 0


@pytest.mark.parametrize(("way", "how"), checks.HUGGING_FACE)
def test_models_of_transformers(ranks: Found, way: str, how: str) -> None:
    assert max(found(ranks, f"hugging face: {way}, {how}")) <= LIMIT


def test_mixed_precision(ranks: Found) -> None:
    for gradients, dtypes in found(ranks, "mixed"):
        assert LIMIT < gradients < 0.2
        assert dtypes == ["torch.bfloat16", "torch.float32"]


@pytest.mark.parametrize("way", ["ddp", "pin"])
def test_reentrant_checkpointing_is_refused(ranks: Found, way: str) -> None:
    for code, hint in found(ranks, f"reentrant: {way}"):
        assert code == "reentrant-checkpointing"
        assert "use_reentrant=False" in hint


@pytest.mark.parametrize("name", ["no sync", "no reshard"])
def test_the_check_of_doctor_sees_a_broken_reduction(ranks: Found, name: str) -> None:
    for gap in found(ranks, f"sabotage: {name}"):
        assert gap > 100 * GRADIENT_LIMIT


def test_what_cannot_be_spread(ranks: Found) -> None:
    codes = ["already-parallel", "bad-precision", "wrong-device", "not-divisible"]
    for refusals in found(ranks, "refusals"):
        assert [code for code, _ in refusals] == codes
        assert all(hint for _, hint in refusals)


@pytest.fixture
def four_ranks() -> object:
    """A group in which nothing is sent."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("four_ranks")
def test_meshes_that_say_nothing() -> None:
    model = fresh(spec_of("A^2B"))
    for mesh, says in (
        (init_device_mesh("cpu", (4,)), "no names"),
        (init_device_mesh("cpu", (4,), mesh_dim_names=("shards",)), "did you mean 'shard'"),
        (init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "tensor")), "'shard'"),
        (init_device_mesh("cpu", (2, 2), mesh_dim_names=("shard", "replicate")), "so ordered"),
        ("shard", "not a str"),
    ):
        with pytest.raises(LoweringError) as caught:
            parallelize(model, mesh)  # type: ignore[arg-type]
        assert caught.value.code == "bad-mesh"
        assert says in str(caught.value)
        assert caught.value.hint


@pytest.mark.usefixtures("four_ranks")
def test_choices_that_there_are_not() -> None:
    mesh = init_device_mesh("cpu", (4,), mesh_dim_names=("shard",))
    for choice in ({"recursed": "pinned"}, {"unit": "blocks"}):
        with pytest.raises(LoweringError, match="did you mean"):
            parallelize(fresh(spec_of("A^2B")), mesh, **choice)  # type: ignore[arg-type]
    with pytest.raises(LoweringError, match="Linear is not a model of rinsc"):
        parallelize(nn.Linear(2, 2), mesh)


def test_a_mesh_of_one_device() -> None:
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=1)
    try:
        with pytest.raises(LoweringError, match="one device"):
            parallelize(
                fresh(spec_of("A^2B")), init_device_mesh("cpu", (1,), mesh_dim_names=("shard",))
            )
    finally:
        dist.destroy_process_group()


def test_the_model_is_found_in_its_wrappers() -> None:
    model = fresh(spec_of("A^2B"))
    inside, graph = emitted_module(nn.ModuleDict({"base": nn.ModuleList([model])}))
    assert inside is model
    assert graph is model.graph


@pytest.mark.parametrize(
    ("signature", "expected"),
    [
        ("PA^3B", ["A"]),
        ("ABA", ["A"]),
        ("AB", []),
        ("(AB^2)^2C", ["A", "B"]),
        ("A{each=2}B", ["A"]),
        ("PA^1B", ["A"]),  # more rounds can be asked for
    ],
)
def test_which_blocks_are_recursed(signature: str, expected: list[str]) -> None:
    assert build_graph(spec_of(signature, layers=6)).recursed_blocks() == expected


def test_weights_are_those_of_the_first_rank(ranks: Found) -> None:
    first, second = found(ranks, "first weights")
    assert first == second
