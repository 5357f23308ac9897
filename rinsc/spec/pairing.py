"""Two towers whose embeddings are compared: one of pictures, one of texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rinsc.errors import Problem
from rinsc.spec.checks import at_key
from rinsc.spec.model import ModelSpec

IMAGE, TEXT = "siglip_image", "siglip_text"


@dataclass(frozen=True)
class Pairing:
    """The names of the towers that are compared; embeddings have the ``width``."""

    image: str
    text: str
    width: int


def pairing_of(towers: Mapping[str, ModelSpec]) -> Pairing | None:
    """The two towers that SigLIP's loss compares; None unless there is one of each kind."""
    of_kind = {
        kind: [name for name, tower in towers.items() if tower.kind == kind]
        for kind in (IMAGE, TEXT)
    }
    if any(len(names) != 1 for names in of_kind.values()):
        return None
    (image,), (text,) = of_kind.values()
    return Pairing(image, text, embedding_width(towers[image]))


def embedding_width(tower: ModelSpec) -> int:
    """How many numbers the embedding of such a tower has."""
    own = tower.settings_of(tower.kind)
    return getattr(own, "projection_width", 0) or tower.width


def pairing_problems(towers: Mapping[str, ModelSpec], location: str | None) -> Iterator[Problem]:
    """Embeddings of two widths cannot be compared."""
    pair = pairing_of(towers)
    if pair is None or embedding_width(towers[pair.text]) == pair.width:
        return
    message = f"embeddings of {pair.image} have {pair.width} numbers and those of {pair.text} "
    message += f"{embedding_width(towers[pair.text])}"
    yield Problem(
        *("widths-differ", message),
        place=at_key(location, f"towers.{pair.text}"),
        hint=f"give {pair.text} projection_width={pair.width}, or both towers one width",
    )
