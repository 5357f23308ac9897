"""What two processes do together; each check runs on both and returns plain data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.fsdp._fully_shard import _fsdp_param_group as groups
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from rinsc.backends.hf import causal_lm
from rinsc.backends.torch import parallel
from rinsc.backends.torch.decoding import Checkpointing
from rinsc.backends.torch.distributed_check import check_spec, gradient_gap, gradients
from rinsc.backends.torch.parallel import emitted_module, parallelize
from rinsc.backends.torch.sharded_checkpoint import full_state_dict, load_sharded, save_sharded
from rinsc.errors import RinscError
from rinsc.graph import Rounds
from rinsc.graph.law import noise_seed_of
from rinsc.layers import register_kind
from rinsc.spec import ModelSpec
from tests.distributed.ranks import Check, largest_gap
from tests.distributed.training import (
    RANDOM_ROUNDS,
    SEQ,
    SEQUENCES,
    adamw,
    batch_of,
    drawn,
    fresh,
    loss_of,
    own_part,
    spec_of,
    train,
)
from tests.test_auxiliary_loss import example

WAYS: dict[str, dict[str, Any]] = {
    "ddp": {"name": "replicate"},
    "pin": {"name": "shard"},
    "pin by layer": {"name": "shard", "unit": "layer"},
    "reshard": {"name": "shard", "recursed": "reshard"},
    "reshard by layer": {"name": "shard", "recursed": "reshard", "unit": "layer"},
}

SPECS: dict[str, ModelSpec] = {
    "random rounds, tied": spec_of(RANDOM_ROUNDS, tied_embedding=True),
    "untied, adapters": spec_of("P(A^3{skip=0.5, adapter=linear})B", tied_embedding=False),
    "gradient window": spec_of("PA^4{grad=2, inject=gate, init=zero}B"),
    "nested": spec_of("((A^2)B)^2C"),
    "tied layers, in place": spec_of("A[2]{tie=attention, each=2}B[2]"),
    "frames": spec_of("A^2B", kind="ouro"),
}

UNLIKE = ("random rounds, tied", "frames", "tied layers, in place")
CASES = [
    (way, name)
    for way in WAYS
    for name in SPECS
    if way in ("ddp", "pin")
    or (way == "reshard" and name in UNLIKE)
    or name == "random rounds, tied"
]

DRAWING = [("ddp", False), ("ddp", True), ("pin", True)]

HUGGING_FACE: list[tuple[str, Checkpointing]] = [
    ("ddp", "visit"),
    ("pin", "visit"),
    ("pin by layer", "round"),
    ("reshard", "round"),
    ("reshard by layer", "visit"),
    ("tensor", "none"),
]

TENSOR_SPECS: dict[str, ModelSpec] = {
    "llama": spec_of("A^2B"),
    "gpt": spec_of("A^2B", kind="gpt", kv_heads=4),
    "transformer": spec_of("A^2B", kind="transformer", kv_heads=4),
    "hrm": spec_of("A^2B", kind="hrm", kv_heads=4),
    "huginn": spec_of("A^2B", kind="huginn"),
    "tied": spec_of("A[2]{tie=mlp}^2B[2]"),
}

RESUMED = spec_of(RANDOM_ROUNDS)
NOISY = "P(A^6{skip=0.5, inject=add, init=noise})B"
BROKEN_AT, STEPS = 3, 6
GATHER = "foreach_all_gather"  # called once for each group of weights that is gathered


def mesh(name: str) -> DeviceMesh:
    return init_device_mesh("cpu", (2,), mesh_dim_names=(name,))


def spread(spec: ModelSpec, way: str, **more: Any) -> nn.Module:
    options = dict(WAYS[way])
    return parallelize(fresh(spec), mesh(options.pop("name")), **options, **more)


def steps_equal(way: str, spec: ModelSpec) -> Check:
    """Three steps of AdamW: gaps of weights, and of the gradients of one more pass."""

    def check(folder: Path) -> tuple[float, float]:
        alone, together = fresh(spec), spread(spec, way)
        train(alone, adamw(alone), spec, range(3), whole_batch=True)
        train(together, adamw(together), spec, range(3))
        rounds = drawn(spec, 3)
        loss_of(alone, batch_of(3), rounds).backward()  # type: ignore[no-untyped-call]
        loss_of(together, own_part(batch_of(3)), rounds).backward()  # type: ignore[no-untyped-call]
        weights = full_state_dict(together)
        assert bool(weights) == (dist.get_rank() == 0)
        return (
            largest_gap(alone.state_dict(), weights) if weights else 0.0,
            _gap_of_gradients(alone, together),
        )

    return check


def _gap_of_gradients(alone: nn.Module, together: nn.Module) -> float:
    """Of the weights that get one at all: a gradient window leaves some without."""
    emitted, _ = emitted_module(alone)
    used = {name for name, parameter in emitted.named_parameters() if parameter.grad is not None}
    pair = [gradients(model) for model in (alone, together)]
    return largest_gap(*({name: each[name] for name in used} for each in pair))


def auxiliary(way: str) -> Check:
    """Gradients with the loss that routers add, which each rank computes over its own tokens."""

    def check(folder: Path) -> float:
        register_kind("router", example().KIND)
        settings = {"router": {"balance": 0.7}}
        spec = spec_of("(A^3)B", kind="router", settings=settings)
        alone, together = fresh(spec).train(), spread(spec, way).train()
        size = len(batch_of(0)) // 2
        for part in (batch_of(0)[:size], batch_of(0)[size:]):
            loss = loss_of(alone, part, None) + alone.auxiliary_loss()
            (loss / 2).backward()  # type: ignore[no-untyped-call]
        emitted: Any = emitted_module(together)[0]
        loss = loss_of(together, own_part(batch_of(0)), None) + emitted.auxiliary_loss()
        loss.backward()
        return _gap_of_gradients(alone, together)

    return check


def gathers(way: str) -> Check:
    """All-gathers of the forward and of the backward pass in two steps of A three times, B, C."""

    def check(folder: Path) -> list[tuple[int, int]]:
        spec = spec_of("A^3BC", layers=3)
        model, found = spread(spec, way), []
        with patch.object(groups, GATHER, wraps=getattr(groups, GATHER)) as gather:
            for step in range(2):
                gather.reset_mock()
                loss = loss_of(model, own_part(batch_of(step)), None)
                forward = gather.call_count
                loss.backward()  # type: ignore[no-untyped-call]
                found.append((forward, gather.call_count - forward))
        return found

    return check


def draws(way: str, *, hosted: bool) -> Check:
    """What a model draws by itself in four passes: rounds, the first row's logits, and the gaps of
    logits and gradients to one process that is told rounds and noise for the whole batch."""

    def check(folder: Path) -> tuple[list[Rounds], list[float], float, float]:
        spec = spec_of(NOISY)
        alone = fresh(spec).train()
        model: Any = causal_lm(spec).train() if hosted else fresh(spec).train()
        drawing = model.model if hosted else model
        drawing.load_state_dict(alone.state_dict())
        options = dict(WAYS[way])
        # As a user's own loop has it, and as `parallelize` has it.
        together = (
            DistributedDataParallel(model, find_unused_parameters=True)
            if way == "ddp"
            else parallelize(model, mesh(options.pop("name")), **options)
        )
        found: list[Rounds] = []
        first, gaps = [], []
        for step in range(4):
            ids = torch.arange(SEQ).expand(SEQUENCES, SEQ)  # rows that differ in their noise alone
            given = together(own_part(ids))
            logits = given.logits if hosted else given
            found.append(dict(drawing.draws.rounds))
            whole = alone(ids, rounds=found[-1], noise_seed=noise_seed_of(0, step))
            gaps.append(float((logits - own_part(whole)).abs().max().detach()))
            first.append(float(logits[0, 0, 0].detach()))
        whole.square().mean().backward()
        logits.square().mean().backward()
        return found, first, max(gaps), _gap_of_gradients(alone, together)

    return check


def draws_along_tensor(folder: Path) -> list[float]:
    """Ranks along ``tensor`` hold one batch, and so must have one noise."""
    model = parallelize(fresh(spec_of(NOISY)), mesh("tensor")).train()
    return [float(model(batch_of(0)).detach().square().mean()) for _ in range(3)]


def rounds_by_rank(folder: Path) -> float:
    """Pinned blocks when every rank runs other rounds: the gradients of the mean of both."""
    spec = spec_of(RANDOM_ROUNDS)
    alone, together = fresh(spec), spread(spec, "pin")
    parts, counts = batch_of(0).chunk(2), (1, 3)
    losses = [loss_of(alone, part, count) for part, count in zip(parts, counts, strict=True)]
    (sum(losses) / 2).backward()  # type: ignore[union-attr]
    rank = dist.get_rank()
    loss_of(together, parts[rank], counts[rank]).backward()  # type: ignore[no-untyped-call]
    return _gap_of_gradients(alone, together)


def accumulation(way: str, *, synced: bool) -> Check:
    """Two passes before one step, twice; only the second reduces, unless ``synced``."""

    def check(folder: Path) -> float:
        spec = spec_of(RANDOM_ROUNDS)
        alone, together = fresh(spec), spread(spec, way)
        optimizers = [torch.optim.SGD(m.parameters(), lr=0.3) for m in (alone, together)]
        for first in (0, 2):
            for optimizer in optimizers:
                optimizer.zero_grad()
            for step in (first, first + 1):
                rounds: Rounds = drawn(spec, step)
                loss_of(alone, batch_of(step), rounds).backward()  # type: ignore[no-untyped-call]
                if isinstance(together, FSDPModule) and not synced:
                    together.set_requires_gradient_sync(step == first + 1)
                loss_of(together, own_part(batch_of(step)), rounds).backward()  # type: ignore[no-untyped-call]
            gap = _gap_of_gradients(alone, together)
            for optimizer in optimizers:
                optimizer.step()
        return gap

    return check


def looked_at_before_the_step(folder: Path) -> float:
    """A pass without gradients between backward and step leaves no old weights behind."""
    spec = spec_of("A^2B")
    alone, together = fresh(spec), spread(spec, "pin")
    for model in (alone, together):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
        part = batch_of(0) if model is alone else own_part(batch_of(0))
        loss_of(model, part, None).backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            loss_of(model, part, None)
        optimizer.step()
    with torch.no_grad():
        expected, logits = (model(batch_of(1)) for model in (alone, together))
    return float((expected - logits).abs().max())


def tensor_parallel(spec: ModelSpec) -> Check:
    """Gaps of logits and gradients, and how many weights are cut."""

    def check(folder: Path) -> tuple[float, float, int]:
        alone, together = fresh(spec), parallelize(fresh(spec), mesh("tensor"))
        with torch.no_grad():
            gap = float((alone(batch_of(0)) - together(batch_of(0))).abs().max())
        for model in (alone, together):
            loss_of(model, batch_of(0), None).backward()  # type: ignore[no-untyped-call]
        cut = sum(isinstance(p, DTensor) for p in together.parameters())
        return gap, _gap_of_gradients(alone, together), cut

    return check


def hugging_face(way: str, how: Checkpointing) -> Check:
    """The gradients of a model of transformers that checkpoints by visit or by round."""

    def check(folder: Path) -> float:
        spec = spec_of(RANDOM_ROUNDS, tied_embedding=True)
        models: list[nn.Module] = []
        for _ in range(2):
            torch.manual_seed(1)
            model = causal_lm(spec).train()
            model.set_checkpointing(how)
            models.append(model)
        options = dict(WAYS.get(way, {"name": way}))
        models[1] = parallelize(models[1], mesh(options.pop("name")), **options)
        whole = batch_of(0)
        part = whole if way == "tensor" else own_part(whole)
        for model, batch in zip(models, (whole, part), strict=True):
            model(batch, labels=batch, rounds=3).loss.backward()
        return _gap_of_gradients(*models)

    return check


def first_weights(folder: Path) -> list[float]:
    """Each rank draws weights of its own; all get the first's."""
    found = []
    for name in ("replicate", "shard", "tensor"):
        model = parallelize(fresh(spec_of("A^2B"), seed=dist.get_rank()), mesh(name))
        with torch.no_grad():
            found.append(float(model(batch_of(0)).abs().sum()))
    return found


def mixed(folder: Path) -> tuple[float, list[str]]:
    """bf16 weights while they compute, sums of gradients and what is stored in fp32."""
    spec = spec_of(RANDOM_ROUNDS)
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    alone, together = fresh(spec), spread(spec, "pin", mixed_precision=policy)
    seen = []
    together.register_forward_hook(lambda module, given, result: seen.append(str(result.dtype)))
    loss_of(alone, batch_of(0), 2).backward()  # type: ignore[no-untyped-call]
    loss_of(together, own_part(batch_of(0)), 2).backward()  # type: ignore[no-untyped-call]
    seen += sorted({str(p.dtype) for p in together.parameters()})
    return _gap_of_gradients(alone, together), seen


def error_of(act: Callable[[], object]) -> tuple[str, str]:
    """Code and hint of what an act raises."""
    try:
        act()
    except RinscError as error:
        return error.code, error.hint or ""
    return "", "nothing was raised"


def reentrant(way: str) -> Check:
    def check(folder: Path) -> tuple[str, str]:
        model = fresh(RESUMED, reentrant=True)
        options = dict(WAYS[way])
        together = parallelize(model, mesh(options.pop("name")), **options)
        return error_of(lambda: loss_of(together, own_part(batch_of(0)), None))

    return check


def sabotage_no_sync(folder: Path) -> float:
    return gradient_gap(lambda model: model, check_spec())


def sabotage_no_reshard(folder: Path) -> float:
    """Pinned blocks that nobody reshards: the second step runs on the weights of the first."""
    with patch.object(parallel, "_reshard_when_done"):
        return gradient_gap(lambda model: parallelize(model, mesh("shard")), check_spec())


def refusals(folder: Path) -> list[tuple[str, str]]:
    spec, together = spec_of("A^2B"), spread(spec_of("A^2B"), "pin")
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
    return [
        error_of(lambda: parallelize(together, mesh("shard"))),
        error_of(lambda: spread(spec, "ddp", mixed_precision=policy)),
        error_of(lambda: parallelize(fresh(spec).to("meta"), mesh("shard"))),
        error_of(lambda: parallelize(fresh(spec_of("A^2B", heads=3, kv_heads=3)), mesh("tensor"))),
    ]


def writes(way: str) -> Check:
    """Losses of an unbroken run that leaves a checkpoint half-way."""

    def check(folder: Path) -> list[float]:
        model = spread(RESUMED, way)
        optimizers = adamw(model)
        losses = train(model, optimizers, RESUMED, range(BROKEN_AT))
        save_sharded(folder / f"from-{way}", model, optimizers, {"step": BROKEN_AT})
        return losses + train(model, optimizers, RESUMED, range(BROKEN_AT, STEPS))

    return check


def continues(name: str, way: str) -> Check:
    """What a checkpoint says, and the losses of the rest of the run."""

    def check(folder: Path) -> tuple[Any, list[float]]:
        model = spread(RESUMED, way)
        with torch.no_grad():
            loss_of(model, own_part(batch_of(0)), None)
        optimizers = adamw(model)
        extra = load_sharded(folder / name, model, optimizers)
        return extra, train(model, optimizers, RESUMED, range(BROKEN_AT, STEPS))

    return check


def cannot_save(folder: Path) -> tuple[str, str]:
    (folder / "a file").write_text("")
    model = spread(RESUMED, "pin")
    return error_of(lambda: save_sharded(folder / "a file" / "here", model, adamw(model), {}))


CHECKS: dict[str, Check] = {
    **{f"steps: {way}, {name}": steps_equal(way, SPECS[name]) for way, name in CASES},
    **{f"auxiliary: {way}": auxiliary(way) for way in WAYS if way != "tensor"},
    **{f"gathers: {way}": gathers(way) for way in ("pin", "reshard")},
    "rounds by rank": rounds_by_rank,
    **{f"draws: {way}, {hosted}": draws(way, hosted=hosted) for way, hosted in DRAWING},
    "draws: tensor": draws_along_tensor,
    **{
        f"accumulation: {way}, {synced}": accumulation(way, synced=synced)
        for way, synced in (("ddp", True), ("pin", True), ("pin", False), ("reshard", False))
    },
    "looked at before the step": looked_at_before_the_step,
    **{f"tensor: {name}": tensor_parallel(spec) for name, spec in TENSOR_SPECS.items()},
    **{f"hugging face: {way}, {how}": hugging_face(way, how) for way, how in HUGGING_FACE},
    "first weights": first_weights,
    "mixed": mixed,
    **{f"reentrant: {way}": reentrant(way) for way in ("ddp", "pin")},
    "sabotage: no sync": sabotage_no_sync,
    "sabotage: no reshard": sabotage_no_reshard,
    "refusals": refusals,
    **{f"writes: {way}": writes(way) for way in ("ddp", "pin")},
    **{f"continues: {way}": continues("from-one", way) for way in ("ddp", "pin")},
    "continues: pin, from ddp": continues("from-ddp", "pin"),
    "cannot save": cannot_save,
}
