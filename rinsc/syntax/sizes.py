"""How many layers each part of a signature has."""

from __future__ import annotations

from itertools import product

from rinsc.errors import Problem, SignatureError
from rinsc.syntax.degree import mentions, part_name, part_size, parts_per_letter
from rinsc.syntax.problems import plural, signature_error
from rinsc.syntax.tree import BlockRef, Signature


def part_sizes(sig: Signature, layers: int | None) -> dict[str, int]:
    """Layers of each part, in order of first use, at degree 1.

    ``layers`` is the whole stack's depth; it may be None only when every letter is sized. What the
    sizes leave over is split evenly over the letters without one, and a letter's layers evenly
    over its parts. Raises SignatureError: ``conflicting-sizes``, ``layers-do-not-split``,
    ``layers-mismatch``, ``layers-missing``, ``bad-layers``.
    """
    sizes = letter_sizes(sig)
    if layers is not None and layers < 1:
        raise _stack_error(
            sig, "bad-layers", "a model has at least 1 layer", "give a larger number"
        )
    parts = parts_per_letter(sig)
    written = parts * sum(size for size in sizes.values() if size is not None)
    unsized = sum(size is None for size in sizes.values())
    share = _share(sig, layers, written, unsized, parts)
    return {
        name: share if size is None else size
        for letter, size in sizes.items()
        for name in part_names(letter, list(sizes), sig.degree)
    }


def stack_of(sig: Signature, each: int) -> int:
    """Layers of the whole stack when each part without a written size has ``each``."""
    parts = parts_per_letter(sig)
    return parts * sum(each if size is None else size for size in letter_sizes(sig).values())


def letter_sizes(sig: Signature) -> dict[str, int | None]:
    """Layers of each part of a letter, None where none are written, in order of first use.

    Raises SignatureError: ``conflicting-sizes``, ``layers-do-not-split``.
    """
    sizes: dict[str, int | None] = {}
    first: dict[str, BlockRef] = {}
    for ref in mentions(sig.body):
        size = part_size(ref, sig)
        sizes.setdefault(ref.letter, None)
        if size is None:
            continue
        if sizes[ref.letter] not in (None, size):
            raise signature_error(
                "conflicting-sizes",
                f"{ref.letter} has {plural(first[ref.letter].size or 0, 'layer')} "
                f"at its first size and {ref.size} here",
                sig.source,
                ref.span,
                "write the size of a letter once",
            )
        sizes[ref.letter] = size
        first.setdefault(ref.letter, ref)
    return sizes


def _share(sig: Signature, layers: int | None, written: int, unsized: int, parts: int) -> int:
    """Layers of each part of an unsized letter; 0 when every letter is sized."""
    if unsized == 0:
        if layers is not None and layers != written:
            message = f"the sizes add up to {plural(written, 'layer')}, not to {layers}"
            raise _stack_error(
                sig, "layers-mismatch", message, f"set layers to {written}, or change the sizes"
            )
        return 0
    if layers is None:
        hint = "set layers, or give every letter a size"
        raise _stack_error(sig, "layers-missing", "the number of layers is not set", hint)
    share, rest = divmod(layers - written, unsized * parts)
    if share < 1 or rest:
        raise _does_not_split(sig, layers, written, unsized, parts)
    return share


def _does_not_split(
    sig: Signature, layers: int, written: int, unsized: int, parts: int
) -> SignatureError:
    step = unsized * parts
    below = written + step * max(1, (layers - written) // step)
    counts = f"{below} layers" if below > layers else f"{below} or {below + step} layers"
    over = plural(step, "block" if parts == 1 else "part")
    if layers <= written:
        message = f"the sizes leave no layers of {layers} for the letters without one"
    elif written:
        message = f"the sizes leave {layers - written} of {layers} layers, "
        message += f"which cannot be split evenly over {over}"
    else:
        message = f"cannot split {plural(layers, 'layer')} evenly over {over}"
    return _stack_error(sig, "layers-do-not-split", message, f"{counts} would work")


def _stack_error(sig: Signature, code: str, message: str, hint: str) -> SignatureError:
    return SignatureError(Problem(code, message, source=sig.source, span=sig.body.span, hint=hint))


def part_names(letter: str, letters: list[str], degree: int) -> list[str]:
    """The parts of ``letter`` in order of first use; ``letters`` are the signature's."""
    names = []
    for path in product(letters, repeat=degree - 1):
        name = letter
        for inner in path:
            name = part_name(name, inner)
        names.append(name)
    return names
