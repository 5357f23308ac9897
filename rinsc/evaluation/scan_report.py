"""What a scan has measured, and its page: a heat map of ranges, the best, what layers change."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from rinsc.errors import plural
from rinsc.scalars import Table, signed
from rinsc.study.page_tables import SCRIPT, STYLE, table

MAP_STYLE = """
.map td { padding: 0.15rem 0.4rem; border: 1px solid var(--back); text-align: right; }
.map td:first-child, .map th:first-child { min-width: 3rem; }
.map th { padding: 0.15rem 0.4rem; font-weight: 600; }
.bar { display: inline-block; height: 0.7rem; background: var(--link); border-radius: 2px; }
"""
STRONGEST = 0.85  # share of the colour where a range costs most
ADVICE = (
    "A cell is the change of the loss where this range runs again, in nats per token. Rows are "
    "the first layer of the range, columns its length. The paler a cell, the better the range "
    "bears it. No change is free: train the model with the repeat before you judge it."
)


@dataclass(frozen=True)
class RangeLoss:
    """Nats per token where the layers from ``first`` to ``last`` run ``times`` times."""

    first: int
    last: int
    loss: float

    @property
    def length(self) -> int:
        return self.last - self.first + 1

    @property
    def span(self) -> str:
        """The layers in words."""
        return str(self.first) if self.first == self.last else f"{self.first} to {self.last}"


@dataclass(frozen=True)
class LayerChange:
    """How much a layer changes the state, as a mean over tokens.

    ``influence`` is 1 minus the cosine of the state before and after (arXiv 2403.03853, section 2),
    ``angle`` the angle between them over pi (arXiv 2403.17887, section 3).
    """

    layer: int
    influence: float
    angle: float


@dataclass(frozen=True)
class Scan:
    """What each range costs, beside the ``base_loss`` of the model as it is; ``ranges`` in the
    order of the stack."""

    run: str
    signature: str
    text: str
    tokens: int
    times: int
    base_loss: float
    ranges: tuple[RangeLoss, ...]
    layers: tuple[LayerChange, ...]

    @property
    def best(self) -> tuple[RangeLoss, ...]:
        """The range of the least loss of each length."""
        lengths = sorted({row.length for row in self.ranges})
        return tuple(
            min((row for row in self.ranges if row.length == n), key=lambda row: row.loss)
            for n in lengths
        )

    @property
    def table(self) -> Table:
        """The best range of each length."""
        rows = [
            (plural(row.length, "layer"), row.span, f"{row.loss:.4f}", self.change(row))
            for row in self.best
        ]
        return Table(("layers", f"run {self.times} times", "loss", "change"), rows, left=(0, 1))

    def change(self, row: RangeLoss) -> str:
        return signed(row.loss - self.base_loss)

    @property
    def words(self) -> str:
        """What was measured, in a line."""
        return (
            f"loss {self.base_loss:.4f} nats per token as it is, "
            f"of {self.tokens:,} tokens of {self.text}"
        )

    def facts(self) -> dict[str, object]:
        """The scan as plain data."""
        return {
            "run": self.run,
            "signature": self.signature,
            "text": self.text,
            "tokens": self.tokens,
            "times": self.times,
            "loss": self.base_loss,
            "ranges": [
                {"first": row.first, "last": row.last, "loss": row.loss} for row in self.ranges
            ],
            "layers": [
                {"layer": row.layer, "influence": row.influence, "angle": row.angle}
                for row in self.layers
            ],
        }

    def __repr__(self) -> str:
        return f"<Scan of {self.signature}: {plural(len(self.ranges), 'range')}>"

    def _repr_html_(self) -> str:
        return heat_map(self)


def page(scan: Scan) -> str:
    """The whole page, which needs no other file and no network."""
    title = f"Layers of {scan.signature} that run {scan.times} times"
    best = [(row.span, f"{row.loss:.4f}", scan.change(row)) for row in scan.best]
    every = [
        (str(row.first), str(row.last), f"{row.loss:.4f}", scan.change(row))
        for row in sorted(scan.ranges, key=lambda row: row.loss)
    ]
    most = max((row.influence for row in scan.layers), default=0.0) or 1.0
    layers = [
        (
            str(row.layer),
            f"{row.influence:.4f}",
            f"{row.angle:.4f}",
            f'<span class="bar" style="width:{9 * row.influence / most:.2f}rem"></span>',
        )
        for row in scan.layers
    ]
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(scan.run)}: {escape(scan.words)}.</p>",
        '<p><label>Show rows with <input id="filter" type="search"></label></p>',
        f"<section><h2>Every range</h2><p>{ADVICE}</p>{heat_map(scan)}</section>",
        "<section><h2>The best range of each length</h2>"
        f"{table(('layers', 'loss', 'change'), best)}</section>",
        "<section><h2>What each layer changes</h2><p>Influence is 1 minus the cosine of the state "
        "before and after the layer. The angle between them is over pi. Both are means over "
        f"tokens.</p>{table(('layer', 'influence', 'angle', 'influence, drawn'), layers, (3,))}"
        "</section>",
        "<section><h2>Numbers</h2><details><summary>All ranges, the best first</summary>"
        f"{table(('first', 'last', 'loss', 'change'), every)}</details></section>",
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}{MAP_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + f"\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def heat_map(scan: Scan) -> str:
    """A table whose cells are coloured by the change of the loss."""
    cells = {(row.first, row.length): row for row in scan.ranges}
    lengths = sorted({row.length for row in scan.ranges})
    changes = [max(0.0, row.loss - scan.base_loss) for row in scan.ranges]
    most = sorted(changes)[int(0.9 * (len(changes) - 1))] if changes else 0.0  # outliers are full
    head = "".join(f'<th scope="col">{length}</th>' for length in lengths)
    rows = "".join(
        f'<tr><th scope="row">{first}</th>'
        f"{''.join(_coloured(scan, cells.get((first, n)), most) for n in lengths)}</tr>"
        for first in range(len(scan.layers))
    )
    return (
        '<div class="scroll"><table class="map"><thead><tr><th scope="col">first \\ length</th>'
        f"{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _coloured(scan: Scan, row: RangeLoss | None, most: float) -> str:
    if row is None:
        return "<td></td>"
    change = row.loss - scan.base_loss
    share = STRONGEST * min(1.0, max(0.0, change) / most) if most else 0.0
    colour = f"rgb(214 96 20 / {share:.2f})" if change >= 0 else "rgb(0 150 110 / 0.4)"
    title = f"layers {row.span}: loss {row.loss:.4f}"
    return f'<td style="background:{colour}" title="{title}">{change:+.2f}</td>'
