"""x + output(convolution(h) · sigmoid(gate(h))) with h = norm(x): the last four positions seen."""

from rinsc.layers import LayerKind
from rinsc.layers.llama import embed, head
from rinsc.ops import Activation, Add, Linear, Mul, RMSNorm, Shift, Weigh


def layer(b, x, sides, spec):
    with b.part("convolution"):
        h = b(RMSNorm(spec.norm_eps), x, name="norm")
        mixed = b(Weigh(), h, name="tap_0")
        for steps in (1, 2, 3):
            mixed = b(Add(), mixed, b(Weigh(), b(Shift(steps), h), name=f"tap_{steps}"))
        gate = b(Activation("sigmoid"), b(Linear(spec.width), h, name="gate"))
        output = Linear(spec.width, init="residual")
        return b(Add(), x, b(output, b(Mul(), mixed, gate), name="output"))


KIND = LayerKind(embed, layer, head)
