"""What a FLOP count includes. Every report prints the name of the convention it follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from rinsc.errors import SpecError
from rinsc.ops import Causal


@dataclass(frozen=True)
class FlopConvention:
    """What is counted; 2 FLOPs a multiply-add of matrix products, nothing else, in all of them.

    The default is what PyTorch's ``FlopCounterMode`` counts: every pair of positions although
    half of them are masked, the head included, the backward pass twice the forward one, nothing
    for recomputation. Raises `SpecError` for another ``causal``.

    >>> from rinsc import cost_report, model_spec
    >>> spec = model_spec("(A^3)B", preset="300m")
    >>> half = cost_report(spec, convention=FlopConvention(causal="half"))
    >>> half.forward.total < cost_report(spec).forward.total
    True
    """

    causal: Causal = "full"
    head: bool = True
    recompute: bool = False

    def __post_init__(self) -> None:
        if self.causal not in get_args(Causal):
            message = f"causal is {self.causal!r:.40}; it must be one of {get_args(Causal)}"
            hint = "'full' counts every pair of positions, 'half' those that are not masked"
            raise SpecError("bad-convention", message, place="causal", hint=hint)

    @property
    def backward_factor(self) -> int:
        """Backward over forward FLOPs: a product for each of its two inputs' gradients."""
        return 2

    @property
    def gradient_factor(self) -> int:
        """What training adds over forward FLOPs of what runs with gradients.

        Recomputation runs the forward pass once more.
        """
        return self.backward_factor + (1 if self.recompute else 0)

    @property
    def training_factor(self) -> int:
        """Training over forward FLOPs of what runs with gradients."""
        return 1 + self.gradient_factor

    @property
    def name(self) -> str:
        return (
            f"2 per multiply-add, causal {self.causal}, head {'in' if self.head else 'out'}, "
            f"backward 2x, recompute {'in' if self.recompute else 'out'}"
        )


PYTORCH = FlopConvention()
