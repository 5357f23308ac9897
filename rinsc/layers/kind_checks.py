"""Whether the programs of a model's kinds are what the kinds say, and fit each other."""

from __future__ import annotations

from collections.abc import Mapping

from rinsc.errors import GraphError, Problem, SignatureError
from rinsc.layers.kind import LayerKind
from rinsc.layers.programs import Programs
from rinsc.ops import Attention, Embedding, TiedLinear
from rinsc.spec import ModelSpec
from rinsc.syntax.tree import mentions


def check_programs(spec: ModelSpec, kinds: Mapping[str, LayerKind], programs: Programs) -> None:
    """Raises `GraphError` for the first thing that is wrong with a kind, and `SignatureError` for
    a part to tie that there is not."""
    for name, kind in kinds.items():
        _require_causal(name, kind, programs)
        _require_names_apart(name, programs)
    _require_tied_table(programs)
    _require_tied_parts(spec, programs)


def _require_names_apart(name: str, programs: Programs) -> None:
    """What a block owns at its start and at its end are weights of one module."""
    ends = [programs.enter.get(name), programs.leave.get(name)]
    owned = [node.name for end in ends if end is not None for node in end.nodes if node.name]
    doubled = [each for each in owned if owned.count(each) > 1]
    if doubled:
        message = (
            f"enter and leave of the layer kind '{name}' both have an operation '{doubled[0]}'"
        )
        raise GraphError(Problem("bad-operation-name", message, hint="rename one of the two"))


def _require_tied_table(programs: Programs) -> None:
    """A head that uses a table of the embedding must name one that is there."""
    names = {node.name for node in programs.embed.nodes if isinstance(node.op, Embedding)}
    for node in programs.head.nodes:
        if isinstance(node.op, TiedLinear) and node.op.owner not in names:
            message = f"the head is tied to '{node.op.owner}', which is no table of the embedding"
            hint = f"name one of: {', '.join(sorted(names))}"
            raise GraphError(Problem("no-such-table", message, hint=hint))


def _require_tied_parts(spec: ModelSpec, programs: Programs) -> None:
    """Raises `SignatureError` for ``tie`` of a part that the block's layers do not have."""
    for name, said in spec.block_options.items():
        kind = spec.block_kinds[name]
        nodes = programs.layer[kind].nodes
        if said.tie is None or any(node.part == said.tie and node.params for node in nodes):
            continue
        options = [option for ref in mentions(spec.signature.body) for option in ref.options]
        option = next(o for o in options if (o.name, o.value) == ("tie", said.tie))
        message = f"layers of kind '{kind}' have no part '{said.tie}' with weights to share"
        hint = f"take tie={said.tie} away, or choose another kind"
        source = spec.signature.source
        problem = Problem("nothing-to-tie", message, source=source, span=option.span, hint=hint)
        raise SignatureError(problem)


def _require_causal(name: str, kind: LayerKind, programs: Programs) -> None:
    """A kind that says it is causal must be: training on text depends on it."""
    ends = (programs.enter.get(name), programs.leave.get(name))
    nodes = [node for p in (programs.layer[name], *ends) if p is not None for node in p.nodes]
    looks_ahead = any(isinstance(node.op, Attention) and not node.op.causal for node in nodes)
    if kind.causal and looks_ahead:
        message = f"the layer kind '{name}' has attention that sees later positions"
        hint = "write causal=False in its LayerKind, or Attention() in its layer"
        raise GraphError(Problem("not-causal", message, hint=hint))
