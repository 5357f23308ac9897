"""x + output(convolution(h) · sigmoid(gate(h))) with h = norm(x): the last positions seen."""

from dataclasses import dataclass

from rinsc.layers import LayerKind
from rinsc.layers.llama import embed, head
from rinsc.ops import Activation, Add, Linear, Mul, RMSNorm, Shift, Weigh


@dataclass(frozen=True)
class Settings:
    """``kernel_size``: how many positions a layer sees, itself among them."""

    kernel_size: int = 4


def layer(b, x, sides, spec):
    with b.part("convolution"):
        h = b(RMSNorm(spec.norm_eps), x, name="norm")
        mixed = b(Weigh(), h, name="tap_0")
        for steps in range(1, b.settings.kernel_size):
            mixed = b(Add(), mixed, b(Weigh(), b(Shift(steps), h), name=f"tap_{steps}"))
        gate = b(Activation("sigmoid"), b(Linear(spec.width), h, name="gate"))
        output = Linear(spec.width, init="residual")
        return b(Add(), x, b(output, b(Mul(), mixed, gate), name="output"))


KIND = LayerKind(embed, layer, head, settings=Settings)
