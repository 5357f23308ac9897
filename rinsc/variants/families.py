"""Named sets of variants that are meant to be compared with one another at equal cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import lcm

from rinsc.errors import SpecError, did_you_mean
from rinsc.syntax import normal_form, parse


@dataclass(frozen=True)
class Member:
    """A variant of a family: its signature, and which idea it stands for."""

    signature: str
    idea: str


# Forms of recursion around A^rB: early, late, in the middle, of the whole, and mixed; powers 2 to
# 4, degrees 1 to 3. The choice is ours, made after the comparison of more than 55 variants in arXiv
# 2502.07503, whose text does not spell its own list out. ABAB, ABABAB and the like are missing
# because they are A^2, A^3: blocks that always stand together are one block.
RINS: Mapping[str, str] = {
    "no recursion": "A",
    "early: the first half (RINS)": "A^2B A^3B A^4B",
    "early: the first third": "A^2BC A^3BC A^4BC",
    "early: the first quarter": "A^2BCD A^3BCD A^4BCD",
    "early: all but the last third": "(AB)^2C (AB)^3C (AB)^4C",
    "late: the second half": "AB^2 AB^3 AB^4",
    "late: the last third": "ABC^2 ABC^3 ABC^4",
    "late: all but the first third": "A(BC)^2 A(BC)^3 A(BC)^4",
    "middle: the middle third (latent recurrent thinking)": "AB^2C AB^3C AB^4C",
    "middle: the middle half": "A(BC)^2D A(BC)^3D A(BC)^4D",
    "middle: the second quarter": "AB^2CD AB^3CD AB^4CD",
    "total: the whole stack (repeat-all-over)": "A^2 A^3 A^4",
    "in place: each half": "A^2B^2 A^3B^3 A^4B^4 A^2B^3 A^3B^2",
    "in place: each third": "A^2B^2C^2 A^3B^3C^3",
    "returning: the first block once more": "ABA ABCA A^2BA ABA^2",
    "returning: there and back": "AB^2A ABCBA ABC^2BA ABAC",
    "interleaved: one block between the others": "ABACA A^2BA^2C ABCAC",
    "nested: recursion inside recursion": "(A^2B)^2 (A^2B)^2C (AB^2)^2 (AB^2)^2C A(B^2C)^2D",
    "degree 2": "A^2B@2 A^3B@2 A^4B@2 AB^2@2 AB^3@2 ABA@2 A^2B^2@2 AB^2A@2",
    "degree 3": "A^2B@3 A^3B@3 AB^2@3 ABA@3 A^2B^2@3",
}

FAMILIES: Mapping[str, Mapping[str, str]] = {"rins": RINS}


def layers_for_all(members: Iterable[Member], least: int) -> int:
    """The fewest layers from ``least`` on that divide evenly over the blocks of every member."""
    forms = (normal_form(parse(member.signature)) for member in members)
    together = lcm(*(len(form.parts) for form in forms))
    return -(-least // together) * together


def family(name: str) -> tuple[Member, ...]:
    """The members of a family, no two of which are the same model. Raises `SpecError` for
    another name."""
    if name not in FAMILIES:
        message = f"'{name}' is not a family"
        raise SpecError("unknown-family", message, hint=did_you_mean(name, FAMILIES))
    return tuple(
        Member(signature, idea)
        for idea, signatures in FAMILIES[name].items()
        for signature in signatures.split()
    )
