"""Random small model specs: any signature, both layer kinds, odd sizes that show a swap."""

from __future__ import annotations

from hypothesis import strategies as st

from rinsc.errors import RinscError
from rinsc.kinds import KINDS
from rinsc.spec import ModelSpec, model_spec
from rinsc.syntax import parse, part_sizes
from rinsc.syntax.tree import Signature
from tests.strategies import signatures


@st.composite
def specs(draw: st.DrawFn, *, max_visits: int = 10) -> ModelSpec:
    """A spec of any signature that the notation can write, nested, sized and with degree."""
    tree = parse(draw(signatures(max_visits=max_visits)))
    kv_heads = draw(st.integers(1, 3))
    heads = kv_heads * draw(st.integers(1, 2))
    return model_spec(
        tree,
        layers=fitting_layers(tree),
        kind=draw(st.sampled_from(sorted(KINDS))),
        heads=heads,
        kv_heads=kv_heads,
        width=heads * draw(st.sampled_from([2, 4, 6])),
        mlp_width=draw(st.sampled_from([5, 7, 11])),
        vocab_size=draw(st.sampled_from([13, 17, 19])),
        context=draw(st.integers(16, 23)),
        tied_embedding=draw(st.booleans()),
    )


def fitting_layers(tree: Signature) -> int:
    """The smallest number of layers that the signature's blocks divide."""
    for layers in range(1, 200):
        try:
            part_sizes(tree, layers)
        except RinscError:
            continue
        return layers
    raise AssertionError(f"no number of layers fits {tree.source}")
