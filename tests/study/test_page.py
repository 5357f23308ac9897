"""The page of a study: complete, alone, the same every time, and what a browser makes of it."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rinsc.study.folder import RunState
from rinsc.study.laws import fit_laws
from rinsc.study.page import page
from rinsc.study.plan import plan_study
from rinsc.study.ranking import rank
from rinsc.study.report import StudyReport
from tests.study.test_plan import study
from tests.study.test_scaling import curve

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
EVIL = "<script>alert(1)</script>"


def made(**changes: object) -> StudyReport:
    """A report of runs that never ran: losses by a formula, one of them failed."""
    plan = plan_study(study(budgets=["1e10", "1e11"], **changes))
    names = [variant.name for variant in plan.variants]
    states = tuple(
        RunState(run, "finished", 4 - 0.1 * names.index(run.variant) + 0.01 * run.seed, 10**10, 2.5)
        for run in plan.runs
    )
    broken = dataclasses.replace(states[0], state="failed", figure=None, message=EVIL)
    losses = {
        name: {
            str(each.run.seed): each.figure or 0.0 for each in states if each.run.variant == name
        }
        for name in names
    }
    laws = fit_laws([dataclasses.replace(curve(seeds=1), name=name) for name in names])
    ranking = {"1e10": rank(losses, "AB")}
    return StudyReport(plan, (broken, *states[1:]), ranking, laws, (EVIL,))


class Reader(HTMLParser):
    """Tags, and the text of each cell."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.cells: list[str] = []
        self._in_cell = False

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attributes if name in ("src", "href")]
        if tag == "td":
            self.cells.append("")
        self._in_cell = tag == "td" or (self._in_cell and tag != "tr")

    def handle_data(self, data: str) -> None:
        if self._in_cell and self.cells:
            self.cells[-1] += data


def test_the_page_is_whole_and_alone() -> None:
    report = made()
    reader = Reader()
    text = page(report)
    reader.feed(text)
    assert reader.links == []
    assert not re.search(r"https?://(?!www\.w3\.org)", text)
    assert "url(" not in text
    assert "@import" not in text
    assert reader.tags.count("table") == 3
    assert reader.tags.count("script") == 1  # what a run said is text
    assert EVIL in reader.cells
    for item in report.rankings["1e10"].ranks:
        assert f"{item.loss:.4f}" in reader.cells
        assert f"{item.low:+.4f} to {item.high:+.4f}" in reader.cells
    assert text == page(made())


def test_texts_of_a_plan_are_escaped() -> None:
    text = page(made(title=EVIL, data=f"text:{EVIL}"))
    assert EVIL not in text
    assert "&lt;script&gt;alert(1)" in text


PROBE = """
<script>
const errors = [];
window.addEventListener("error", (event) => errors.push(event.message));
window.addEventListener("load", () => {
  const table = document.querySelector("table");
  const column = () => [...table.tBodies[0].rows].map((row) => row.cells[3].textContent);
  const button = table.querySelectorAll("th button")[3];
  button.click(); const up = column(); button.click(); const down = column();
  const field = document.getElementById("filter");
  field.value = "AB^2"; field.dispatchEvent(new Event("input"));
  const shown = [...table.tBodies[0].rows].filter((row) => !row.hidden).length;
  const requests = performance.getEntriesByType("resource").length;
  document.title = JSON.stringify({up, down, shown, requests, errors});
});
</script>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_a_browser_sorts_and_filters_without_a_request(tmp_path: Path) -> None:
    import json

    path = tmp_path / "report.html"
    path.write_text(page(made()).replace("<head>", f"<head>{PROBE}"), encoding="utf-8")
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")
    command = [CHROMIUM or "", *options, f"--user-data-dir={tmp_path}/profile", "--dump-dom"]
    done = subprocess.run(
        [*command, path.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    title, *_ = re.findall(r"<title>(.*?)</title>", done.stdout)
    found = json.loads(title)
    assert found["up"] == sorted(found["up"])
    assert found["down"] == found["up"][::-1]
    assert len(set(found["up"])) == 3
    assert (found["shown"], found["requests"], found["errors"]) == (1, 0, [])
