"""What a notebook shows of specs, graphs and reports, and their short text."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

import rinsc
from tests.verbs.test_export import Cells

SPEC = rinsc.model_spec("(A^3)B")


def test_texts_are_short() -> None:
    assert repr(SPEC).startswith("ModelSpec('(A^3)B', layers=12, width=64, heads=4, kv_heads=2")
    assert "kind" not in repr(SPEC)  # as by default
    graph = rinsc.build_graph(SPEC)
    assert repr(graph) == "<BlockGraph (A^3)B: 12 layers stored, 24 executed>"
    report = rinsc.cost_report(SPEC)
    assert repr(report).startswith("<CostReport (A^3)B: ")
    assert all(len(repr(each)) < 200 for each in (SPEC, graph, report))


@pytest.mark.parametrize("signature", ["(A^3)B", "(A^40)(B^30)C^20", "A^3{skip=0.5}"])
def test_a_graph_is_drawn(signature: str) -> None:
    spec = rinsc.model_spec(signature)
    picture = rinsc.build_graph(spec)._repr_svg_()
    root = ElementTree.fromstring(picture)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert spec.text in "".join(root.itertext())
    assert "parameter" not in picture


def test_tables_hold_the_figures() -> None:
    report = rinsc.cost_report(SPEC)
    cells = Cells(report._repr_html_()).cells
    assert f"{report.stored_params:,}" in cells
    assert f"{report.training_flops_per_token:,}" in cells
    assert cells[-2:] == ["B", f"{report.params_by_block['B']:,}"]
    cells = Cells(SPEC._repr_html_()).cells
    assert cells[cells.index("width") + 1] == "64"


def test_a_kernel_shows_them() -> None:
    nbformat, client = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    lines = [
        "import rinsc\nrinsc.build_graph(rinsc.model_spec('(A^3)B'))",
        "rinsc.model_spec('(A^3)B')",
        "rinsc.cost_report(rinsc.model_spec('(A^3)B'))",
        "from rinsc import progress\nprogress.QUIET_SECONDS = 0\n"
        "with progress.ShownProgress().task('counting <x>') as observe:\n"
        "    observe(0.25); observe(1.0)",
    ]
    cells = [nbformat.v4.new_code_cell(line) for line in lines]
    notebook = nbformat.v4.new_notebook(cells=cells)
    client.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    shown = [cell.outputs[-1]["data"] for cell in notebook.cells]
    assert ElementTree.fromstring(shown[0]["image/svg+xml"]) is not None
    assert "width" in Cells(shown[1]["text/html"]).cells
    assert "stored parameters" in Cells(shown[2]["text/html"]).cells
    assert shown[3]["text/html"] == 'counting &lt;x&gt; <progress max="1" value="1.000"></progress>'
    assert shown[3]["text/plain"] == "counting <x>: 100%"
