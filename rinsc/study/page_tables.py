"""What a report's page is made of: style, script, tables that sort, figures with numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

STYLE = """
:root { color-scheme: light dark; --ink: #222; --soft: #5c6370; --line: #ccd; --back: #fff;
  --good: #00744f; --bad: #b04a00; --link: #0b5cad; }
@media screen and (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --soft: #a3adb8; --line: #3a4150; --back: #16181d;
    --good: #3ecf9a; --bad: #ff9a52; --link: #7ab8ff; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back);
  max-width: 66rem; margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere; }
h1, h2, h3 { line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
a { color: var(--link); } nav a { margin-right: 0.8rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.6rem; border-bottom: 1px solid var(--line); text-align: right; }
th { vertical-align: bottom; } td { white-space: nowrap; }
td.words { white-space: normal; min-width: 11rem; overflow-wrap: normal; }
th:first-child, td:first-child, .words { text-align: left; }
td:first-child { white-space: normal; min-width: 6rem; }
th button { font: inherit; font-weight: 600; color: inherit; background: none; border: 0;
  padding: 0; cursor: pointer; text-align: inherit; overflow-wrap: normal; }
th[aria-sort=ascending] button::after { content: " ▲"; }
th[aria-sort=descending] button::after { content: " ▼"; }
svg { max-width: 100%; height: auto; } figure svg text { fill: currentColor; }
figure { margin: 1rem 0; } figure svg { width: 42rem; }
.legend { display: flex; flex-wrap: wrap; gap: 0 1rem; max-width: 42rem; font-size: 0.9rem; }
.legend i { display: inline-block; width: 0.75rem; height: 0.75rem; border-radius: 2px;
  margin-right: 0.35rem; }
@media (max-width: 40rem) { figure svg text { font-size: 16px; }
  th:first-child, td:first-child { position: sticky; left: 0; background: var(--back);
    max-width: 11rem; } }
details { margin: 0.5rem 0; } summary { cursor: pointer; }
section > details svg { background: #fff; border-radius: 8px; }
figcaption { color: var(--soft); font-size: 0.9rem; }
.better { color: var(--good); } .worse { color: var(--bad); }
input { font: inherit; padding: 0.3rem 0.5rem; width: 100%; max-width: 24rem; }
@media print { figure svg { width: 32rem; } table { font-size: 0.75rem; }
  th, td { padding: 0.15rem 0.35rem; } td.words { min-width: 6rem; } .scroll { overflow: visible; }
  label, nav { display: none; } body { max-width: none; margin: 0; }
  details:not([open]) { display: none; } svg, tr { break-inside: avoid; } }
"""

SCRIPT = """
const text = (row, column) => row.cells[column].textContent.trim();
const number = (value) => /^[+-]?[\\d.,]/.test(value) ? parseFloat(value.replaceAll(",", "")) : NaN;
for (const table of document.querySelectorAll("table")) {
  table.querySelectorAll("th button").forEach((button, column) => {
    button.addEventListener("click", () => {
      const head = button.parentElement, body = table.tBodies[0];
      const down = head.getAttribute("aria-sort") === "ascending";
      table.querySelectorAll("th").forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows], full = rows.filter((row) => text(row, column));
      const numbers = full.every((row) => !Number.isNaN(number(text(row, column))));
      full.sort((a, b) => {
        const [x, y] = [text(a, column), text(b, column)];
        return numbers ? number(x) - number(y) : x.localeCompare(y);
      });
      if (down) full.reverse();
      body.append(...full, ...rows.filter((row) => !text(row, column)));
    });
  });
}
document.getElementById("filter").addEventListener("input", (event) => {
  const search = event.target.value.toLowerCase();
  for (const row of document.querySelectorAll("tbody tr"))
    row.hidden = !row.textContent.toLowerCase().includes(search);
});
const open = () => {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target && target.tagName === "DETAILS") target.open = true;
};
addEventListener("hashchange", open);
addEventListener("beforeprint", () => {
  for (const each of document.querySelectorAll("section > details")) each.open = true;
});
open();
"""


def code(text: str) -> str:
    """A name, escaped."""
    return f"<code>{escape(text)}</code>"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], words: Sequence[int] = ()) -> str:
    """``rows`` hold HTML; the columns ``words`` stand at the left."""

    def marked(tag: str, index: int, content: str) -> str:
        name = ' class="words"' if index in words else ""
        scope = ' scope="col"' if tag == "th" else ""
        return f"<{tag}{scope}{name}>{content}</{tag}>"

    head = "".join(
        marked("th", index, f'<button type="button">{escape(name)}</button>')
        for index, name in enumerate(heads)
    )
    body = "".join(
        f"<tr>{''.join(marked('td', index, text) for index, text in enumerate(row))}</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def figure(picture: str, caption: str, numbers: str, *, is_open: bool = False) -> str:
    """A picture with its caption, and the table of its numbers below."""
    shown = f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"
    if is_open:
        return shown + numbers
    return f"{shown}<details><summary>Numbers</summary>{numbers}</details>"
