"""`rinsc.retrofit`: a pretrained model runs some of its layers again, with the weights it has.

base/  A[30]                looped/  P[12]A[6]^2C[12]
A.12.query.weight      ->   A.0.query.weight
A.18.query.weight      ->   C.0.query.weight

No weight is copied: the new folder is as large as the old one. Where no layers are tied or
dropped, one round of every repeat is the source exactly, and both are run to see it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rinsc.cost import CostReport, cost_report
from rinsc.errors import LoweringError, UsageError, setting
from rinsc.extras import require
from rinsc.graph import build_graph, rounds_in_words
from rinsc.layers import require_language_model
from rinsc.layers.weight_names import block_weights, weight_shapes
from rinsc.progress import Progress, ShownProgress
from rinsc.scalars import Table, html_table, rounded_bytes, rounded_count, rounded_flops
from rinsc.syntax.tree import rewritten
from rinsc.variants.retrofit import Range, Retrofit, repeated_ranges, retrofit_plan
from rinsc.verbs.carried import carried
from rinsc.verbs.forms import hf_facts, in_place_of
from rinsc.verbs.import_model import token_ids_of, write_model
from rinsc.verbs.models import open_run, run_spec

if TYPE_CHECKING:
    import torch

    from rinsc.spec import ModelSpec

CHECKED_TOKENS = 32  # of two rows that both models run
ROUNDING = 1e-5  # of the largest logit, that the same numbers in another order may differ by


@dataclass(frozen=True)
class Retrofitted:
    """What `retrofit` has written.

    ``gap`` is the largest difference between the logits of one round and those of the source; None
    where layers are tied or dropped, so that there is nothing to compare.
    """

    path: Path
    plan: Retrofit
    gap: float | None
    size: int

    @property
    def spec(self) -> ModelSpec:
        return self.plan.spec

    @property
    def costs(self) -> Mapping[str, CostReport]:
        """The source, one round of every repeat, and the rounds written."""
        own = cost_report(self.plan.spec)
        reports = {"source": cost_report(self.plan.source)}
        if own.rounds:
            reports["one round"] = cost_report(self.plan.spec, rounds=1)
        return {**reports, f"rounds {rounds_in_words(own.rounds)}" if own.rounds else "new": own}

    @property
    def table(self) -> Table:
        """Parameters, layers, FLOPs and cache, side by side."""
        reports = self.costs
        rows = [
            ("parameters", [rounded_count(r.stored_params) for r in reports.values()]),
            ("layers run", [str(r.executed_layers) for r in reports.values()]),
            (
                "forward FLOPs per token",
                [rounded_flops(r.forward_flops_per_token) for r in reports.values()],
            ),
            (
                "cache per token",
                [rounded_bytes(r.memory.kv_bytes_per_token) for r in reports.values()],
            ),
        ]
        return Table((self.plan.spec.text, *reports), [(name, *cells) for name, cells in rows])

    @property
    def words(self) -> list[str]:
        """Which layers each block has, and what one round is."""
        checked = "one round is not the source: layers are tied or dropped"
        if self.gap is not None:
            checked = "one round is the source: the same logits"
            if self.gap:
                checked += f" to within {self.gap:.2g}"
        return [*self.plan.words(), checked]

    def facts(self) -> dict[str, object]:
        """The result as plain data."""
        return {
            "path": str(self.path),
            "signature": self.plan.spec.text,
            "ranges": {name: list(own) for name, own in self.plan.ranges.items()},
            "layers": {name: [list(g) for g in own] for name, own in self.plan.layers.items()},
            "dropped": list(self.plan.dropped),
            "gap_at_one_round": self.gap,
            "bytes": self.size,
            "costs": {
                name: {
                    "parameters": report.stored_params,
                    "executed_layers": report.executed_layers,
                    "forward_flops_per_token": report.forward_flops_per_token,
                    "kv_bytes_per_token": report.memory.kv_bytes_per_token,
                }
                for name, report in self.costs.items()
            },
        }

    def __repr__(self) -> str:
        return f"<Retrofitted {self.plan.spec.text} in {self.path} ({rounded_bytes(self.size)})>"

    def _repr_html_(self) -> str:
        lines = "".join(f"<p>{escape(line)}</p>" for line in self.words)
        return f"<div>{lines}{html_table(self.table.heads, self.table.rows)}</div>"


def retrofit(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    signature: str | None = None,
    *,
    layers: Mapping[str, Range] | None = None,
    blocks: Sequence[Range] = (),
    drop: Sequence[Range] = (),
    init: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Retrofitted:
    """Write a pretrained model as a recursive one: what ``rinsc retrofit`` does.

    ``source`` is a model folder, as `rinsc.import_model` writes it, or a run. ``layers`` say which
    of its layers each block of the ``signature`` has, both ends included:
    ``{"P": (0, 11), "A": (12, 17), "C": (18, 29)}``. In place of both, ``blocks`` run twice, each
    as RYS writes it: ``[(12, 16)]`` are layers 12 to 15. ``drop`` leaves layers out. Where a block
    is written with fewer layers than its range, ``init`` says what they start as: ``"slice"``,
    ``"average"`` or ``"lower"``.

    Raises `RinscError` for ranges that do not fit, for layers that differ in kind and would become
    one, and where one round would not be the source; nothing is then written.
    """
    shown = ShownProgress() if progress is None else progress
    output = Path(path)
    folder = open_run(os.fspath(source))
    spec = run_spec(folder)
    require_language_model(spec)
    signature, layers = _chosen(spec, signature, layers, blocks)
    plan = retrofit_plan(spec, signature, ranges=layers, drop=drop, init=init)
    require("torch", "safetensors", "transformers")
    if output.resolve() == folder.path.resolve():
        message = "the source would be written over"
        raise UsageError("usage", message, place=str(output), hint="choose another folder")
    from rinsc.backends.hf.folder import check_standalone_folder
    from rinsc.backends.torch.weight_files import tensors_in
    from rinsc.verbs.forms import check_no_run

    with in_place_of(output, lambda: hf_facts(None), overwrite=overwrite):
        check_no_run(output)
        check_standalone_folder(output)
        before = tensors_in(folder.weights)
        tensors = _renamed(plan, before)
        gap = _gap(plan, before, tensors) if plan.is_exact else None
        written = write_model(
            *(
                plan.spec,
                tensors,
                token_ids_of(folder.path),
                carried(folder.path, without_code=True),
                output,
            ),
            precision=next(iter(before.values())).dtype,
            progress=shown,
        )
    return Retrofitted(output, plan, gap, written.size)


def _chosen(
    spec: ModelSpec,
    signature: str | None,
    layers: Mapping[str, Range] | None,
    blocks: Sequence[Range],
) -> tuple[str, Mapping[str, Range] | None]:
    """The signature and its ranges, those of ``blocks`` where these are given."""
    if not blocks:
        if signature is None:
            message = "there is no signature"
            hint = f"write one, as 'P A^2 C', or {setting('blocks', '--blocks 12,16')}"
            raise UsageError("usage", message, hint=hint)
        return signature, layers
    if signature is not None or layers is not None:
        message = f"{setting('blocks')} says which layers run twice, and so does the signature"
        raise UsageError("usage", message, hint="give one of the two")
    return repeated_ranges(spec.layers, blocks)


def _renamed(plan: Retrofit, before: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of the new model, those of layers under their new names."""
    import torch

    old, new = build_graph(plan.source), build_graph(plan.spec)
    shapes = weight_shapes(new)
    prefixes = [block_weights(old, name).layer(index) for name, index in plan.sources()]
    tensors = {name: tensor for name, tensor in before.items() if name in shapes}
    for name in old.blocks:  # whose letters may be those of other layers now
        for own in [own for own in tensors if own.startswith(f"{name}.")]:
            del tensors[own]
    for name, groups in plan.layers.items():
        for index, group in enumerate(groups):
            prefix = block_weights(new, name).layer(index)
            for own in (own for own in before if own.startswith(prefixes[group[0]])):
                suffix = own.removeprefix(prefixes[group[0]])
                tied = [before[prefixes[k] + suffix] for k in group]
                mean = tied[0] if len(tied) == 1 else torch.stack(tied).float().mean(0)
                tensors[prefix + suffix] = mean.to(tied[0].dtype)
    missing = shapes.keys() - tensors.keys()
    if missing:
        fresh = _fresh_repeats(plan.spec)
        some = next(iter(before.values()))
        tensors |= {name: fresh[name].to(some.dtype) for name in missing}
    return tensors


def _fresh_repeats(spec: ModelSpec) -> dict[str, torch.Tensor]:
    """What repeats own, as it starts; the rest of the model is as small as it can be."""
    import torch

    from rinsc.backends.torch import to_torch

    tree = spec.signature
    body = rewritten(tree.body, ref=lambda ref: replace(ref, size=1))
    small = replace(spec, signature=replace(tree, body=body), layers=len(spec.parts), vocab_size=8)
    torch.manual_seed(0)
    return dict(to_torch(small).state_dict())


def _gap(
    plan: Retrofit, before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]
) -> float:
    """How far the logits of one round are from those of the source; raises LoweringError where
    they are not the same."""
    import torch

    from rinsc.backends.torch import to_torch

    ids = torch.randint(
        plan.source.vocab_size,
        (2, min(CHECKED_TOKENS, plan.source.context)),
        generator=torch.Generator().manual_seed(0),
    )
    logits = []
    for spec, tensors in ((plan.source, before), (plan.spec, after)):
        with torch.device("meta"):
            module: Any = to_torch(spec).to(next(iter(tensors.values())).dtype)
        module.load_state_dict(tensors, assign=True)
        rounds = 1 if list(module.graph.dials()) else None
        with torch.no_grad():
            logits.append(module.eval()(ids, rounds=rounds).float())
    gap = float((logits[0] - logits[1]).abs().max())
    if not gap <= ROUNDING * float(logits[0].abs().max()):
        message = f"one round is not the source: logits differ by {gap:.3g}"
        hint = "an injection or a start of the repeat changes it; inject=gate, inject=concat and "
        hint += "every adapter start as the identity"
        raise LoweringError("not-the-source", message, place=plan.spec.text, hint=hint)
    return gap
