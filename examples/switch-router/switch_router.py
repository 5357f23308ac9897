"""A mixture of experts: each token goes to the one whose gate is largest (Switch Transformer,
arXiv 2101.03961, section 2.1). In training the layer adds the loss of section 2.2, which spreads
the tokens over the experts. All experts are computed, and those not chosen weigh nothing."""

from dataclasses import dataclass

from rinsc.layers import LayerKind
from rinsc.layers.llama import embed, head
from rinsc.layers.mixing import attention, rotary_sides
from rinsc.ops import (
    Activation,
    Add,
    AuxiliaryLoss,
    Largest,
    Linear,
    Mul,
    RMSNorm,
    Softmax,
    Stretch,
    TokenMean,
)


@dataclass(frozen=True)
class Settings:
    """``balance`` is the weight of the loss, α in the paper."""

    experts: int = 4
    balance: float = 0.01


def layer(b, x, sides, spec):
    own = b.settings
    with b.part("attention"):
        h = b(RMSNorm(spec.norm_eps), x, name="attention_norm")
        x = b(Add(), x, attention(b, h, spec, rotary=sides))
    with b.part("mlp"):
        h = b(RMSNorm(spec.norm_eps), x, name="mlp_norm")
        gates = b(Softmax(), b(Linear(own.experts), h, name="router"))
        chosen = b(Largest(), gates)
        shares = b(Mul(), b(TokenMean(), chosen), b(TokenMean(), gates))
        x = b(AuxiliaryLoss(own.balance * own.experts), x, shares)
        inner = b(Activation("relu"), b(Linear(own.experts * spec.mlp_width), h, name="up"))
        inner = b(Mul(), inner, b(Stretch(spec.mlp_width), b(Mul(), gates, chosen)))
        return b(Add(), x, b(Linear(spec.width, init="residual"), inner, name="down"))


KIND = LayerKind(embed, layer, head, rotary_sides, settings=Settings)
