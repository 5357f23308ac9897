"""Random small model specs: any signature, every layer kind, odd sizes that show a swap."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from hypothesis import reject
from hypothesis import strategies as st

from rinsc.errors import SignatureError
from rinsc.spec import ModelSpec, TowersSpec, model_spec, spec_to_toml, towers_spec
from rinsc.spec.towers import FRAME_KEYS
from rinsc.syntax import parse
from rinsc.syntax.normal import letter_sizes, stack_of
from rinsc.syntax.parser import parse_towers
from rinsc.syntax.tree import Signature
from tests.kinds import KINDS, VARIED
from tests.strategies import nested_signatures, signatures


@st.composite
def specs(
    draw: st.DrawFn,
    *,
    max_visits: int = 10,
    options: bool = False,
    kinds: Iterable[str] = tuple(KINDS),
    head_dims: Sequence[int] = (2, 4, 6),
) -> ModelSpec:
    """A spec of any signature that the notation can write, nested, sized and with degree.

    Its layers need not divide evenly, and it has one of the ``kinds``. ``options`` draws options
    of blocks and repeats too.
    """
    tree = parse(draw(signatures(max_visits=max_visits, options=options)))
    kv_heads = draw(st.integers(1, 3))
    heads = kv_heads * draw(st.integers(1, 2))
    kind = draw(st.sampled_from(sorted(kinds)))
    return model_spec(
        tree,
        layers=fitting_layers(tree, more=draw(st.integers(0, 2))),
        kind=kind,
        heads=heads,
        kv_heads=kv_heads,
        width=heads * draw(st.sampled_from(head_dims)),
        mlp_width=draw(st.sampled_from([5, 7, 11])),
        vocab_size=draw(st.sampled_from([13, 17, 19])),
        context=None if kind == "siglip_image" else draw(st.integers(16, 23)),
        tied_embedding=draw(st.booleans()),
        head_dim=draw(st.sampled_from([None, *head_dims])),
        embedding_width=draw(st.sampled_from([3, 5])),
        patch_width=draw(st.sampled_from([3, 7])),
        settings={
            **{"decoder": draw(DECODERS), "looped_decoder": draw(DECODERS)},
            "siglip_image": draw(PICTURES),
        },
    )


DECODERS: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [
        {},
        {"head_norm": True, "qkv_bias": True},
        {"pattern": "lgn", "window": 3, "local_theta": 50.0},
        {"norms": "both", "norm": "rms_from_one", "score_cap": 2.0, "score_scale": 0.3}
        | {"logit_cap": 3.0, "scaled_embedding": True, "activation": "gelu_tanh", "pattern": "lm"},
        {"norms": "after", "width_norm": True, "scaling": "linear factor=3.0", "output_bias": True},
        {"parallel": True, "norm": "layer", "gated": False, "mlp_bias": True, "qkv_bias": True},
    ]
)
PICTURES: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [
        {"image_size": 8, "patch_size": 2, "channels": 3},
        {"image_size": 15, "patch_size": 3, "channels": 1},
    ]
)
_CONTEXTS = st.integers(16, 19)
_SIZES = {"A": 2, "B": 1, "C": 1, "D2": 1, "X": 1, "Y": 2}


@st.composite
def tower_specs(
    draw: st.DrawFn,
    *,
    max_visits: int = 6,
    options: bool = True,
    kinds: Iterable[str] = tuple(KINDS),
    head_dims: Sequence[int] = (2, 4, 6),
    paired: bool = False,
) -> TowersSpec:
    """Two towers: of one kind and width where they share blocks, of any where they do not.

    Those that are ``paired`` are SigLIP's, whatever the kinds.
    """
    texts = signatures(max_visits=max_visits, sizes=False, degrees=False, options=options)
    one, other = (draw(texts).partition("@")[0] for _ in range(2))
    shares = draw(st.booleans())
    if not shares:
        other = other.translate(str.maketrans("ABC", "XYX")).replace("D2", "Y")
    sized = [
        re.sub("[A-Z]2?", lambda letter: f"{letter[0]}[{_SIZES[letter[0]]}]", text)
        for text in (one, other)
    ]
    # Layers that go by their number in the stack are seldom the same ones in two towers.
    own = sorted(set(kinds) - {VARIED}) if shares else sorted(kinds)
    first = _tower(draw, ["siglip_image"] if paired else own, head_dims)
    others = ["siglip_text"] if paired else [str(first["kind"])] if shares else own
    second = _tower(draw, others, head_dims)
    if shares:
        second |= {key: first[key] for key in second if key not in FRAME_KEYS}
    if (first["kind"], second["kind"]) == ("siglip_image", "siglip_text"):
        second["settings"] = {"siglip_text": {"projection_width": first["width"]}}
    elif (first["kind"], second["kind"]) == ("siglip_text", "siglip_image"):
        first["settings"] = {"siglip_text": {"projection_width": second["width"]}}
    try:
        towers = parse_towers(f"image: {sized[0]}, text: {sized[1]}")
    except SignatureError:
        reject()  # each says another thing of a letter
    return towers_spec(towers, towers={"image": first, "text": second})


def _tower(draw: st.DrawFn, kinds: Sequence[str], head_dims: Sequence[int]) -> dict[str, object]:
    """Dimensions of one tower."""
    kv_heads = draw(st.integers(1, 2))
    heads = kv_heads * draw(st.integers(1, 2))
    kind = draw(st.sampled_from(kinds))
    pictures = kind == "siglip_image"
    own = {"settings": {kind: draw(PICTURES)}} if pictures else {"context": draw(_CONTEXTS)}
    return {
        **{**own, "kind": kind},
        "heads": heads,
        "kv_heads": kv_heads,
        "width": heads * draw(st.sampled_from(head_dims)),
        "mlp_width": draw(st.sampled_from([5, 7])),
        "vocab_size": draw(st.sampled_from([13, 17])),
        "tied_embedding": draw(st.booleans()),
        "embedding_width": draw(st.sampled_from([3, 5])),
        "patch_width": draw(st.sampled_from([3, 7])),
    }


def fitting_layers(tree: Signature, more: int = 0) -> int:
    """The smallest number of layers that suffices for the signature's blocks, and ``more``.

    Where every letter is sized it is what the sizes add up to.
    """
    least = stack_of(tree, each=1)
    return least + more if None in letter_sizes(tree).values() else least


@st.composite
def nested_specs(draw: st.DrawFn) -> ModelSpec:
    """A small spec of a signature with repeats in repeats and every option; see the strategy."""
    tree = parse(draw(nested_signatures(max_visits=40)))
    return model_spec(
        tree,
        layers=fitting_layers(tree, more=draw(st.integers(0, 2))),
        kind=draw(st.sampled_from(["llama", "gpt"])),
        heads=2,
        width=8,
        mlp_width=5,
        vocab_size=13,
        context=16,
    )


@st.composite
def damaged_tomls(draw: st.DrawFn) -> bytes:
    """The file of a spec with a few of its bytes taken away, doubled, or replaced by others."""
    data = spec_to_toml(draw(nested_specs())).encode()
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(start + 40, len(data))))
        noise = draw(
            st.one_of(
                st.just(data[start:end] * 2),
                st.sampled_from(
                    (b"", b"[", b"]", b"{", b'"', b"=", b".", b"#", b"\n", b"\\", b"\xff")
                ),
                st.sampled_from((b"nan", b"inf", b"-1", b"0", b"true", b"1e999", b"9" * 5000)),
                st.sampled_from(
                    (b"a." * 40, b"[" * 80, b"[bind]\nr = 3\n", b"[source]\n", b"0x7f")
                ),
                st.binary(max_size=8),
            )
        )
        data = data[:start] + noise + data[end:]
    return data
