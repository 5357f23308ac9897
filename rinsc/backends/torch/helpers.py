"""Source of the functions that emitted modules carry along when an operation calls them."""

from __future__ import annotations

HELPERS: dict[str, str] = {
    "rotary_angles": '''
def rotary_angles(context: int, head_dim: int, theta: float) -> torch.Tensor:
    """Angle of each position and each pair of a head's dimensions: (context, head_dim / 2)."""
    powers = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    return torch.outer(torch.arange(context, dtype=torch.float32), theta**-powers)
''',
    "rotary_table": '''
def rotary_table(function: str, context: int, head_dim: int, theta: float) -> torch.Tensor:
    """Cosine or sine of the angles in the default type: (context, head_dim / 2)."""
    angles = rotary_angles(context, head_dim, theta)
    return (angles.cos() if function == "cos" else angles.sin()).to(torch.get_default_dtype())
''',
    "scaled_angles": '''
def scaled_angles(
    context: int, head_dim: int, theta: float, *divisors: tuple[float, ...]
) -> torch.Tensor:
    """Angles of each position, those of each pair divided by a number; rows for every set of
    divisors in turn: (sets · context, head_dim / 2)."""
    powers = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    positions = torch.arange(context, dtype=torch.float32)
    turns = [theta**-powers / torch.tensor(own, dtype=torch.float32) for own in divisors]
    return torch.cat([torch.outer(positions, own) for own in turns])
''',
    "near_or_far": '''
def near_or_far(table: torch.Tensor, seq: int, near: int) -> torch.Tensor:
    """The rows of a sequence, in the second half of the table where it is a long one."""
    start = len(table) // 2 if seq > near else 0
    return table[start : start + seq]
''',
    "near_or_far_rows": '''
def near_or_far_rows(table: torch.Tensor, position_ids: torch.Tensor, near: int) -> torch.Tensor:
    """The rows of positions, in the second half of the table where one of them is far."""
    far = (position_ids.max() >= near).long()
    return table[position_ids + far * (len(table) // 2)]
''',
    "rotate": '''
def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions: x (batch, heads, seq, head_dim), cos and sin (seq, head_dim / 2)."""
    left, right = x.chunk(2, dim=-1)
    return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1)
''',
    "rotate_first": '''
def rotate_first(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """`rotate` the first dimensions of each head, as many as the tables turn."""
    width = 2 * cos.shape[-1]
    return torch.cat((rotate(x[..., :width], cos, sin), x[..., width:]), dim=-1)
''',
    "OffsetRMSNorm": '''
class OffsetRMSNorm(nn.RMSNorm):
    """x / rms(x) · (1 + weight) over the last dimension, in float32."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = 1.0 + self.weight.float()
        return F.rms_norm(x.float(), self.normalized_shape, weight, self.eps).type_as(x)
''',
    "Weight": '''
class Weight(nn.Module):
    """A trained tensor, read where it is used."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))
''',
    "lecun_normal_": '''
def lecun_normal_(x: torch.Tensor) -> torch.Tensor:
    """Normal numbers, cut off at two deviations; their variance is 1 over an output's inputs."""
    std = 1 / (0.8796256610342398 * math.sqrt(x[0].numel()))
    return nn.init.trunc_normal_(x, std=std, a=-2 * std, b=2 * std)
''',
    "shift": '''
def shift(x: torch.Tensor, steps: int) -> torch.Tensor:
    """Each position of (batch, seq, width) gets what stood some steps before; zeros first."""
    return F.pad(x, (0, 0, steps, 0))[:, : x.shape[1]]
''',
    "largest": '''
def largest(x: torch.Tensor, count: int) -> torch.Tensor:
    """1 at the largest elements of the last dimension, else 0."""
    return torch.zeros_like(x).scatter(-1, x.topk(count, dim=-1).indices, 1.0)
''',
    "with_loss": '''
class Losses:
    """Losses of layers, in an object: wrappers around layers would hand on a copy of a list."""

    def __init__(self) -> None:
        self.kept: list[torch.Tensor] = []


class JoinedLoss(torch.autograd.Function):
    """State and loss as they are; backward reaches both at once, when what made them is there."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, loss: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.view_as(x), loss.view_as(loss)

    @staticmethod
    def backward(
        ctx: Any, of_x: torch.Tensor, of_loss: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return of_x, of_loss


def with_loss(x: torch.Tensor, loss: torch.Tensor, losses: Losses | None) -> torch.Tensor:
    """The state as it is; in training the sum of the loss is kept."""
    if losses is None:
        return x
    x, loss = JoinedLoss.apply(x, loss.float().sum())
    losses.kept.append(loss)
    return x


class LossKeeper(nn.Module):
    """A model whose layers add to the loss: what trains it adds `auxiliary_loss()` to its own."""

    _kept_loss: torch.Tensor | None = None

    def new_losses(self) -> Losses | None:
        """Where layers keep their losses in a training pass; a pass in eval mode ends what is
        kept."""
        if not self.training:
            self._kept_loss = None
        if not (self.training and torch.is_grad_enabled()):
            return None
        if self._kept_loss is not None and not self._is_backward():
            raise RuntimeError(
                "the auxiliary loss of the last training pass was not read: "
                "add module.auxiliary_loss() to the loss of every pass"
            )
        return Losses()

    def keep_losses(self, losses: Losses | None) -> None:
        """Keep the losses of a pass until they are read."""
        if losses is not None and not self._is_backward():
            self._kept_loss = torch.stack(losses.kept).sum()

    def auxiliary_loss(self) -> torch.Tensor | float:
        """The loss that layers added in the last training pass, over all visits; reading it ends
        it. 0 after a pass in eval mode."""
        loss, self._kept_loss = self._kept_loss, None
        return 0.0 if loss is None else loss

    def _is_backward(self) -> bool:
        """Whether a checkpoint runs the pass once more."""
        return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1
''',
    "append": '''
def append(past: torch.Tensor | None, new: torch.Tensor) -> torch.Tensor:
    """New keys or values (batch, heads, seq, head_dim) behind past ones, where there are some."""
    return new if past is None else torch.cat((past, new), dim=2)
''',
    "in_window": '''
def in_window(
    query: torch.Tensor,
    key: torch.Tensor,
    window: int,
    mask: torch.Tensor | None = None,
    causal: bool = True,
) -> torch.Tensor:
    """The mask that lets each query see the last keys alone of those that it would see."""
    seq, total = query.shape[2], key.shape[2]
    if mask is None:
        mask = torch.ones(seq, total, dtype=torch.bool, device=query.device)
        # One query sees all keys; several begin where the keys do, as `is_causal` takes them.
        mask = mask.tril() if causal and seq > 1 else mask
    from_last = mask.flip(-1).cumsum(-1).flip(-1)
    return mask & (from_last <= window)
''',
    "window_attention": '''
def window_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    window: int,
    mask: torch.Tensor | None = None,
    causal: bool = True,
    grouped: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """Attention to the last keys alone of those that each query would see."""
    mask = in_window(query, key, window, mask, causal)
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, enable_gqa=grouped, scale=scale
    )
''',
    "capped_attention": '''
def capped_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cap: float,
    mask: torch.Tensor | None = None,
    causal: bool = True,
    window: int | None = None,
    scale: float | None = None,
) -> torch.Tensor:
    """Attention whose scores s become cap · tanh(s / cap) before the softmax."""
    seq, groups = query.shape[2], query.shape[1] // key.shape[1]
    if window is not None:
        mask = in_window(query, key, window, mask, causal)
    elif mask is None and causal and seq > 1:
        mask = torch.ones(seq, key.shape[2], dtype=torch.bool, device=query.device).tril()
    if groups > 1:
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    scale = 1 / math.sqrt(query.shape[3]) if scale is None else scale
    scores = cap * torch.tanh(query @ key.mT * (scale / cap))
    if mask is not None and mask.dtype == torch.bool:
        # Padding may see nothing; it must not become NaN, which others would be 0 times.
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    elif mask is not None:
        scores = scores + mask
    return scores.softmax(-1, dtype=torch.float32).to(value.dtype) @ value
''',
    "attend": '''
class Slots(Protocol):
    """Where keys and values (batch, heads, seq, head_dim) are kept, a pair for each attention."""

    def update(
        self, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]: ...
    def enter(self, keep: str) -> None: ...
    def again(self) -> None: ...
    def leave(self) -> None: ...
    def one_by_one(
        self, position_ids: torch.Tensor, mask: torch.Tensor | None
    ) -> Iterator[tuple[slice, torch.Tensor | None]]: ...


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    slots: Slots | None,
    grouped: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """Attention behind what the slots hold; causal, or of what the mask lets through."""
    if slots is not None:
        key, value = slots.update(key, value)
    causal = False if query.shape[2] == 1 else mask is None
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=causal, enable_gqa=grouped, scale=scale
    )
''',
    "attend_near": '''
def attend_near(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    slots: Slots | None,
    window: int,
    grouped: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """`attend`, to the last keys alone of those that a query would see."""
    if slots is not None:
        key, value = slots.update(key, value)
    mask = in_window(query, key, window, mask)
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, enable_gqa=grouped, scale=scale
    )
''',
    "attend_capped": '''
def attend_capped(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    slots: Slots | None,
    cap: float,
    window: int | None = None,
    scale: float | None = None,
) -> torch.Tensor:
    """`capped_attention` behind what the slots hold."""
    if slots is not None:
        key, value = slots.update(key, value)
    return capped_attention(query, key, value, cap, mask, True, window, scale)
''',
    "recomputed": '''
def recomputed(
    wanted: bool, function: Callable[..., torch.Tensor], *given: Any, **options: Any
) -> torch.Tensor:
    """What the function gives; its activations are made once more where that is wanted."""
    if wanted and torch.is_grad_enabled():
        # A visit is repeated by many: only this form of checkpoints counts each of them once.
        return checkpoint(function, *given, use_reentrant=False, **options)
    return function(*given, **options)
''',
    "record": '''
def record(visited: list[torch.Tensor] | None, state: torch.Tensor) -> None:
    """Keep the state between two visits, where somebody asks for them."""
    if visited is not None:
        visited.append(state)
''',
    "positions_of": '''
def positions_of(attention_mask: torch.Tensor, input_ids: torch.Tensor) -> torch.Tensor:
    """Position of each new token among those that count: (batch, seq)."""
    counted = attention_mask.long().cumsum(1) - 1
    return counted.clamp(min=0)[:, -input_ids.shape[1] :]
''',
    "visible_keys": '''
def visible_keys(attention_mask: torch.Tensor, input_ids: torch.Tensor) -> torch.Tensor:
    """Which keys each new token sees: (batch, 1, seq, total); padding sees itself alone."""
    seq, total = input_ids.shape[1], attention_mask.shape[1]
    places = torch.arange(total, device=input_ids.device)
    own = places[total - seq :, None]
    return ((places <= own) & attention_mask.bool()[:, None, None, :]) | (places == own)
''',
    "noise_like": '''
PRIME = 2**31 - 1


def mixed(number: torch.Tensor) -> torch.Tensor:
    """Numbers below `PRIME` in another order, in which neighbours have little in common."""
    number = (number * 48271 + 12345) % PRIME
    square = number * number % PRIME
    return square * square % PRIME * number % PRIME


def noise(x: torch.Tensor, seed: int, positions: torch.Tensor | None) -> torch.Tensor:
    """The numbers of `noise_like`."""
    batch, seq, width = (torch.arange(size, device=x.device) for size in x.shape)
    seq = seq if positions is None else positions
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        raise ValueError(f"the seed of the noise must be a whole number, not {seed!r}")
    start = seed.__index__() % PRIME * 742938285 % PRIME
    rows = mixed(start + batch[:, None] * 1000003 + seq * 10007)
    places = rows[..., None] + width
    first, second = mixed(mixed(places)), mixed(mixed(places + 2**30))
    # Of 31 bits the upper 24, which float32 holds; the logarithm is never that of 0.
    radius = torch.sqrt(-2 * torch.log((first // 128 + 1).float() / 2**24))
    angle = (second // 128).float() * (math.tau / 2**24)
    return (radius * torch.cos(angle)).to(x.dtype)


if not hasattr(torch.ops.rinsc, "noise"):
    # torch.compile takes it for one operation; it would write the arithmetic out for minutes.
    SCHEMA = "(Tensor x, SymInt seed, Tensor? at) -> Tensor"
    OPERATION = torch.library.custom_op("rinsc::noise", noise, mutates_args=(), schema=SCHEMA)
    OPERATION.register_fake(lambda x, seed, at: torch.empty_like(x))


def noise_like(x: torch.Tensor, seed: int, positions: torch.Tensor | None = None) -> torch.Tensor:
    """Normal numbers, each a function of the seed and of its place in x (batch, seq, width)."""
    if torch.compiler.is_dynamo_compiling() and not torch.compiler.is_exporting():
        return torch.ops.rinsc.noise(x.detach(), seed, positions)
    return noise(x, seed, positions)
''',
}
