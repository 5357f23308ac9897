"""A page of held-out pictures with the captions that a model finds nearest, to look at."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rinsc.storage.files import write_atomically

if TYPE_CHECKING:
    from rinsc.data.pairs.decoding import Pixels

MOST_PICTURES = 120
SHOWN_SIDE = 96  # pixels on the page

_STYLE = f"""
:root {{ color-scheme: light dark; --ink: #1b2330; --muted: #566070; --paper: #ffffff;
  --card: #f4f6f9; --line: #d5dae1; --right: #00694e; --wrong: #a13d00; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #e8ebf0; --muted: #a4adba; --paper: #14181f;
  --card: #1e242d; --line: #39414d; --right: #4fd3ab; --wrong: #ff9d66; }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; max-width: 72rem; padding: 1rem; background: var(--paper);
  color: var(--ink); font: 16px/1.45 system-ui, sans-serif; }}
h1 {{ font-size: 1.4rem; margin: .4rem 0; overflow-wrap: anywhere; }}
p {{ color: var(--muted); margin: .3rem 0 1rem; overflow-wrap: anywhere; }}
ul.pairs {{ list-style: none; margin: 0; padding: 0; display: grid; gap: .8rem;
  grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)); }}
ul.pairs > li {{ display: flex; gap: .8rem; padding: .8rem; background: var(--card);
  border: 1px solid var(--line); border-radius: .6rem; }}
img {{ width: {SHOWN_SIDE}px; height: {SHOWN_SIDE}px; flex: none; border-radius: .3rem;
  image-rendering: auto; background: #ffffff; }}
.texts {{ min-width: 0; overflow-wrap: anywhere; }}
.own {{ font-weight: 600; }}
ol {{ margin: .3rem 0 0; padding-left: 1.3rem; font-size: .92rem; }}
.right {{ color: var(--right); font-weight: 600; }}
.score {{ color: var(--muted); font-variant-numeric: tabular-nums; }}
.mark {{ color: var(--wrong); }}
"""


@dataclass(frozen=True)
class PageEntry:
    """A picture (3, side, side), its own caption, and the nearest captions with their scores."""

    pixels: Pixels
    name: str
    caption: str
    nearest: Sequence[tuple[str, float]]

    @property
    def rank(self) -> int | None:
        """Where its own caption stands among the nearest, from 1; None where it is not there."""
        texts = [text for text, _ in self.nearest]
        return texts.index(self.caption) + 1 if self.caption in texts else None


def page_text(title: str, lines: Sequence[str], entries: Sequence[PageEntry]) -> str:
    """The page as one file of HTML: it loads nothing, and runs nothing."""
    items = "\n".join(map(_item, entries))
    paragraphs = "".join(f"<p>{escape(line)}</p>" for line in lines)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "img-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f'<h1>{escape(title)}</h1>\n{paragraphs}\n<ul class="pairs">\n{items}\n</ul>\n'
        "</body>\n</html>\n"
    )


def write_page(path: Path, title: str, lines: Sequence[str], entries: Sequence[PageEntry]) -> None:
    """Write `page_text`; raises OutputError."""
    write_atomically(path, page_text(title, lines, entries))


def _item(entry: PageEntry) -> str:
    own = escape(entry.caption)
    mark = "" if entry.rank == 1 else ' <span class="mark">not the nearest</span>'
    captions = "".join(
        f'<li class="{_look(text, entry)}">{escape(text)} '
        f'<span class="score">{score:.3f}</span></li>'
        for text, score in entry.nearest
    )
    return (
        f'<li><img alt="{own}" title="{escape(entry.name)}" src="{data_uri(entry.pixels)}">'
        f'<div class="texts"><div class="own">{own}{mark}</div><ol>{captions}</ol></div></li>'
    )


def _look(text: str, entry: PageEntry) -> str:
    return "right" if text == entry.caption else "other"


def data_uri(pixels: Pixels) -> str:
    """A picture (3, height, width) as the address of a PNG that holds itself."""
    return "data:image/png;base64," + base64.b64encode(png_bytes(pixels)).decode("ascii")


def png_bytes(pixels: Pixels) -> bytes:
    """A picture (3, height, width) from 0 to 255 as a PNG of 8 bits a colour."""
    rows = np.ascontiguousarray(pixels.transpose(1, 2, 0)).astype(np.uint8)
    height, width, _ = rows.shape
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    check = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)
