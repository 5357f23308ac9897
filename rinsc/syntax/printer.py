"""Tree to text; keeps the structure, so that parsing the text gives the tree again."""

from __future__ import annotations

from rinsc.syntax.tree import BlockRef, Call, Node, Option, Repeat, Scalar, Sequence, Signature


def to_text(sig: Signature) -> str:
    """The signature's text. ``parse(to_text(t)) == t`` for every tree that `parse` can return."""
    degree = f"@{sig.degree}" if sig.degree > 1 else ""
    return items_text(sig.body) + degree


def items_text(sequence: Sequence) -> str:
    """The items of a sequence, without parentheses round them."""
    return "".join(node_text(item) for item in sequence.items)


def node_text(node: Node) -> str:
    """One node; a sequence here is a group and gets parentheses."""
    match node:
        case BlockRef(letter, size, options):
            size_text = "" if size is None else f"[{size}]"
            return letter + size_text + options_text(options)
        case Repeat(body, count, options):
            return f"{node_text(body)}^{count}{options_text(options)}"
        case Sequence():
            return f"({items_text(node)})"


def options_text(options: tuple[Option, ...]) -> str:
    """``{name=value, flag}``, or nothing when there are none."""
    if not options:
        return ""
    return "{" + ", ".join(_option_text(option) for option in options) + "}"


def _option_text(option: Option) -> str:
    if option.value is True:
        return option.name
    if isinstance(option.value, Call):
        args = ", ".join(_scalar_text(arg) for arg in option.value.args)
        return f"{option.name}={option.value.name}({args})"
    return f"{option.name}={_scalar_text(option.value)}"


def _scalar_text(value: Scalar) -> str:
    return repr(value) if isinstance(value, float) else str(value)
