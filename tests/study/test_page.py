"""The page of a study: complete, alone, the same every time, and what a browser makes of it."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from rinsc.study.evidence import Evidence
from rinsc.study.folder import RunState
from rinsc.study.laws import fit_laws
from rinsc.study.page import page, write_report
from rinsc.study.plan import plan_study
from rinsc.study.ranking import rank
from rinsc.study.report import StudyReport
from rinsc.study.rounds import AtRounds
from rinsc.study.standing import Standing, text_interval
from rinsc.study.tuning import TunedRate
from tests.study.test_plan import study
from tests.study.test_scaling import curve
from tests.study.test_text_noise import pieces

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
    rng = np.random.default_rng(0)
    laws = fit_laws([dataclasses.replace(curve(rng), name=name) for name in names])
    windows = [pieces(rng.normal(3, 1, 40), np.full(40, 100)) for _ in range(2)]
    between = text_interval(windows[:1], windows[1:])
    assert between is not None
    standing = Standing(rank(losses, "AB"), {"A^2B": between})
    rounds = tuple(
        AtRounds(state.run, count, 4 - 0.02 * count, windows[0])
        for state in states
        for count in (1, 2, 3)
        if state.run.variant == "A^2B"
    )
    points = tuple((1e8 * step, 5 - step / 20) for step in range(1, 40))
    evidence = Evidence(
        {state.run.name: points for state in states},
        (({"rinsc": EVIL, "torch": "2"}, len(states)),),
        frozenset(),
        (),
    )
    by_budget = {"1e10": standing}
    return StudyReport(
        plan, (broken, *states[1:]), by_budget, laws, (EVIL,), rounds, by_budget, evidence
    )


class Reader(HTMLParser):
    """Tags, and the text of each cell."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.cells: list[str] = []
        self.names: set[str] = set()
        self._in_cell = False

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attributes if name in ("src", "href")]
        self.names |= {value or "" for name, value in attributes if name == "id"}
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
    assert reader.links
    assert all(link.startswith("#") and link[1:] in reader.names for link in reader.links)
    assert not re.search(r"https?://(?!www\.w3\.org)", text)
    assert "url(" not in text
    assert "@import" not in text
    figures = text.split("<figure>")[1:]
    assert len(figures) == 10  # none by parameters, which all have alike
    for each in figures:  # a table of its numbers, or the words that say where they are
        assert "<table>" in each.split("<h2>")[0] or "table above" in each
        assert 'role="img" aria-label="' in each
    assert reader.tags.count("script") == 1  # what a run said is text
    assert EVIL in reader.cells
    standing = report.rankings["1e10"]
    between = standing.text["A^2B"]
    assert f"{between.low:+.4f} to {between.high:+.4f}" in reader.cells
    for item in standing.ranks:
        assert f"{item.loss:.4f}" in reader.cells
        if item.variant != "AB":
            assert f"{item.low:+.4f} to {item.high:+.4f}" in reader.cells
    for name in ("A^2B", "AB^2"):  # a schedule of each is drawn
        assert f"<title>{name}</title>" in text
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
  field.value = ""; field.dispatchEvent(new Event("input"));
  const runs = [...document.querySelectorAll("table")].find(
    (each) => each.tHead.textContent.includes("what went wrong"));
  runs.querySelectorAll("th button")[4].click();
  const empty = runs.tBodies[0].rows[runs.tBodies[0].rows.length - 1].cells[3].textContent;
  const link = table.querySelector("a"), target = document.querySelector(link.hash);
  link.click();
  setTimeout(() => {
  const isOpen = target.open, place = location.hash === link.hash;
  const requests = performance.getEntriesByType("resource").length;
  document.title = JSON.stringify({up, down, shown, empty, isOpen, place, requests, errors});
  }, 50);
});
</script>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_a_browser_sorts_and_filters_without_a_request(tmp_path: Path) -> None:
    import json

    path = tmp_path / "report.html"
    path.write_text(page(made()).replace("<head>", f"<head>{PROBE}"), encoding="utf-8")
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")
    waits = "--virtual-time-budget=2000"
    command = [CHROMIUM or "", *options, waits, f"--user-data-dir={tmp_path}/profile", "--dump-dom"]
    done = subprocess.run(
        [*command, path.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    title, *_ = re.findall(r"<title>(.*?)</title>", done.stdout)
    found = json.loads(title)
    assert found["up"] == sorted(found["up"])
    assert found["down"] == found["up"][::-1]
    assert len(set(found["up"])) == 3
    assert (found["shown"], found["requests"], found["errors"]) == (1, 0, [])
    assert (found["isOpen"], found["place"], found["empty"]) == (True, True, "failed")


def test_a_page_has_its_runs_and_figures_beside_it(tmp_path: Path) -> None:
    import json

    report = made()
    written = write_report(report, tmp_path / "report.html")
    assert [path.name for path in written] == ["report.html", "report.csv", "report.json"]
    before = [path.read_bytes() for path in written]
    facts = json.loads(before[2])
    assert facts["rankings"]["1e10"]["ranks"][0]["variant"] == "AB^2"
    assert facts["rounds"][0] == {
        **{"variant": "A^2B", "budget": "1e10", "rounds": 1, "runs": 2, "loss": 3.98},
        "inference_flops": facts["rounds"][0]["inference_flops"],
    }
    assert len(before[1].decode().splitlines()) == 1 + len(report.plan.runs) - 1  # one failed
    write_report(made(), tmp_path / "report.html")
    assert [path.read_bytes() for path in written] == before


def test_a_page_of_sixty_variants_is_small() -> None:
    variants = [f"A^{n}B^{m}" for n in range(1, 9) for m in range(1, 9) if n * m > 1][:60]
    report = made(variants=variants, seeds=[1, 2, 3])
    text = page(dataclasses.replace(report, laws=None))
    assert len(text) < 3_000_000
    assert "more</span>" in text  # all but some variants are grey


def test_tuned_rates_stand_in_the_page_and_fixed_ones_are_told() -> None:
    fixed = made()
    assert "Rates were fixed" in page(fixed)
    assert fixed.facts()["rates"] is None
    tuned = made(tuning={})
    rates = (
        TunedRate("AB", "1e10", (), rate=3e-3, penalty=0.0),
        TunedRate("A^2B", "1e10", (), rate=1.25e-3, at_edge=True, penalty=0.0123),
        TunedRate("AB^2", "1e10", (), message="all of its trials diverged"),
    )
    report = dataclasses.replace(tuned, rates=rates)
    shown = page(report)
    for text in ("0.00125", "0.0123"):
        assert f"<td>{text}</td>" in shown
    for text in ("at the edge of the trials", "all of its trials diverged"):
        assert f'<td class="words">{text}</td>' in shown
    title, _, rows = report.tables()[0]
    assert "Learning rates" in title
    assert [row[0] for row in rows] == ["AB", "A^2B", "AB^2"]
