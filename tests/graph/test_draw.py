"""Drawings: what must be in each, that each is well formed, and that none explodes."""

from __future__ import annotations

import importlib
import io
import json
import re
import time
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings

import rinsc
from rinsc.graph import BlockGraph, Visit
from rinsc.graph.draw import (
    FORMATS,
    schedule_lines,
    to_dot,
    to_json,
    to_mermaid,
    to_pdf,
    to_png,
    to_svg,
    tree_lines,
)
from rinsc.graph.draw.figure import to_figure
from rinsc.graph.draw.labels import block_colours, contrast, short_number
from tests.graph.graphs import expand_text, graph_of, params_of, schedule
from tests.strategies import nested_signatures, signatures

SVG = "{http://www.w3.org/2000/svg}"
SHAPES = ["AB", "(A^3)B", "((A^2)B)^2C", "AAB@2", "ABCABC", "((((A^2)B)^3C)^4D)^5", "ABC" * 10]
LONG = "AB" * 512


def every_text(graph: BlockGraph) -> dict[str, str]:
    """The terminal tree and every format, by name."""
    params = params_of(graph)
    texts = {suffix: draw(graph, params) for suffix, draw in FORMATS.items()}
    return {**texts, "tree": "\n".join(tree_lines(graph, params))}


def missing_facts(graph: BlockGraph, name: str, text: str) -> list[str]:
    """Names, sizes and counts of the graph that a drawing does not show."""
    if name == ".json":
        rounds, layers = r'"rounds": {}\b', r'"layers": {}\b'
    else:
        rounds, layers = "\N{MULTIPLICATION SIGN}{}\\b", r"(?<!\d){} layer"
    facts = []
    for loop in graph.loops():
        facts += [rf"\b{loop.name}\b", rounds.format(loop.rounds)]
    for block in graph.blocks.values():
        params = params_of(graph)[block.name]
        shown = str(params) if name == ".json" else re.escape(f"{params / 1e6:.1f} M parameters")
        facts += [rf"\b{block.name}\b", layers.format(block.layers), shown]
    return [fact for fact in facts if not re.search(fact, text)]


@pytest.mark.parametrize("text", SHAPES)
def test_every_drawing_shows_blocks_sizes_and_counts(text: str) -> None:
    graph = graph_of(text)
    for name, drawing in every_text(graph).items():
        assert missing_facts(graph, name, drawing) == [], name


def test_a_missing_fact_is_seen() -> None:
    for name, drawing in every_text(graph_of("AB")).items():
        assert missing_facts(graph_of("(A^3)B"), name, drawing), name


def fills(svg: str) -> dict[str, set[str]]:
    """Colours of the boxes of each block."""
    found: dict[str, set[str]] = {}
    for group in ElementTree.fromstring(svg).iter(f"{SVG}g"):
        if group.get("class") == "visit":
            box = group.find(f"{SVG}rect")
            assert box is not None
            found.setdefault(str(group.get("data-block")), set()).add(str(box.get("fill")))
    return found


@given(signatures(max_visits=30))
def test_svg_has_one_colour_for_each_block(text: str) -> None:
    graph = graph_of(text)
    colours = fills(to_svg(graph, params_of(graph)))
    assert set(colours) == set(graph.blocks)
    assert all(len(each) == 1 for each in colours.values())
    assert len(set.union(*colours.values())) == len(colours)


@given(signatures(max_visits=30))
def test_svg_boxes_and_arcs_are_the_steps(text: str) -> None:
    graph = graph_of(text)
    root = ElementTree.fromstring(to_svg(graph, params_of(graph)))
    classes = [group.get("class") for group in root.iter(f"{SVG}g")]
    assert classes.count("loop") == len(list(graph.loops()))
    assert classes.count("visit") == count_rolled(graph)


def count_rolled(graph: BlockGraph) -> int:
    return sum(1 if isinstance(step, Visit) else count_rolled(step.body) for step in graph.steps())


@pytest.mark.parametrize("text", [*SHAPES, "A" + "1" * 30 + "B", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"])
def test_svg_text_stays_in_its_box(text: str) -> None:
    graph = graph_of(text)
    params = dict.fromkeys(graph.blocks, 987_654_321)
    for group in ElementTree.fromstring(to_svg(graph, params)).iter(f"{SVG}g"):
        if group.get("class") == "visit":
            box = group.find(f"{SVG}rect")
            assert box is not None
            for words in group.iter(f"{SVG}text"):
                # 0.57 em a character is what wide sans-serif fonts need on average.
                width = len(str(words.text)) * float(str(words.get("font-size"))) * 0.57
                assert width <= float(str(box.get("width")))


def test_repeated_visits_are_marked_as_shared() -> None:
    graph = graph_of("ABA")
    for draw in (to_svg, to_mermaid, to_dot):
        drawing = draw(graph, params_of(graph))
        assert drawing.count("shared") == 1
        assert drawing.count("1.1 M parameters") == 1


@given(signatures(max_visits=30))
def test_json_holds_the_whole_graph(text: str) -> None:
    graph = graph_of(text)
    document = json.loads(to_json(graph, params_of(graph)))

    def visits(steps: list[dict[str, object]]) -> list[str]:
        found: list[str] = []
        for step in steps:
            if step["type"] == "visit":
                found.append(str(step["block"]))
            else:
                found += visits(step["steps"]) * int(str(step["rounds"]))  # type: ignore[arg-type]
        return found

    assert visits(document["steps"]) == expand_text(text)
    assert document["signature"] == graph.spec.text
    assert {each["name"]: each["parameters"] for each in document["blocks"]} == params_of(graph)
    assert document["totals"]["visits"] == len(expand_text(text))
    assert document["totals"]["layers_executed"] == sum(
        graph.blocks[visit.block].layers for visit in graph.visits()
    )
    assert json.loads(json.dumps(document)) == document


def is_balanced(text: str) -> bool:
    """Whether brackets outside quotes nest, and every quote is closed."""
    outside = re.sub(r'"(?:[^"\\]|\\.)*"', "", text).replace("-->", "").replace("->", "")
    while (
        shorter := re.sub(r"\(\)|\[\]|\{\}", "", re.sub(r"[^()\[\]{}\"]", "", outside))
    ) != outside:
        outside = shorter
    return outside == ""


@given(signatures(max_visits=30))
def test_brackets_are_balanced(text: str) -> None:
    graph = graph_of(text)
    mermaid = to_mermaid(graph, params_of(graph))
    loops = len(list(graph.loops()))
    assert is_balanced(to_dot(graph, params_of(graph)))
    assert is_balanced(mermaid)
    assert mermaid.count("  subgraph ") == loops == len(re.findall(r"^ +end$", mermaid, re.M))
    assert mermaid.count("-.->") == loops


def test_an_injection_is_drawn_from_what_feeds_the_rounds() -> None:
    graph = graph_of("P(AB)^3{inject=add}C^2{inject=gate, init=zero}")
    mermaid, dot = (draw(graph, params_of(graph)) for draw in (to_mermaid, to_dot))
    assert [line.strip() for line in mermaid.splitlines() if re.search("-->|-.->", line)] == [
        "input --> visit1",
        "visit1 --> visit3",
        'visit1 -.->|"inject=add"| visit3',
        "visit3 --> visit4",
        'visit4 -.->|"inject=gate"| visit6',
        "visit6 --> output",
        'visit4 -.->|"×3"| visit3',
        'visit6 -.->|"×2"| visit6',
    ]
    assert '  visit1 -> visit3 [label="inject=add", style=dotted];' in dot
    steps = json.loads(to_json(graph, params_of(graph)))["steps"]
    assert [step.get("injection") for step in steps] == [None, 1, 2]
    svg, tree = to_svg(graph, {}), "\n".join(tree_lines(graph, params_of(graph)))
    for source in ("fed by P", "fed by repeat AB"):
        assert source in svg
        assert source in tree
    dotted = ElementTree.fromstring(svg).findall(".//{*}path[@stroke-dasharray]")
    assert len(dotted) == 2


@pytest.mark.parametrize("text", ["(a", '"a', "[(])", "a}"])
def test_unbalanced_brackets_are_seen(text: str) -> None:
    assert not is_balanced(text)


@pytest.mark.parametrize("draw", FORMATS.values(), ids=FORMATS)
def test_a_thousand_visits_stay_small_and_quick(draw: object) -> None:
    graph = graph_of(LONG)
    started = time.perf_counter()
    drawing = draw(graph, params_of(graph))  # type: ignore[operator]
    assert time.perf_counter() - started < 2
    assert len(drawing) < 100_000


def test_pictures_shorten_long_sequences() -> None:
    graph = graph_of(LONG)
    svg = to_svg(graph, params_of(graph))
    assert "+976" in svg
    assert "976 more steps" in to_dot(graph, params_of(graph))
    assert svg.count('class="visit"') == 48


def test_names_are_escaped() -> None:
    graph = graph_of("AB")
    evil = 'A"<&>'
    blocks = {evil if name == "A" else name: block for name, block in graph.blocks.items()}
    blocks[evil] = type(blocks[evil])(evil, 1, "llama")
    hostile = BlockGraph(graph.spec, blocks, graph.digraph).with_steps([Visit(evil), Visit("B")])
    assert set(fills(to_svg(hostile, params_of(hostile)))) == {evil, "B"}
    assert is_balanced(to_dot(hostile, params_of(hostile)))
    assert is_balanced(to_mermaid(hostile, params_of(hostile)))


MANY = "".join(f"{chr(65 + index % 26)}{index // 26 or ''}" for index in range(300))


def test_text_on_every_colour_can_be_read_and_no_two_are_alike() -> None:
    colours = list(block_colours(graph_of(MANY)).values())
    assert len(colours) == 300
    assert len({(colour.fill, colour.stripes) for colour in colours}) == 300
    assert len({colour.fill for colour in colours[:24]}) == 24
    for colour in colours:
        assert contrast(colour.fill, colour.text) >= 4.5
        if colour.stripes:
            assert contrast(colour.stripes.colour, colour.text) >= 4.5
            assert contrast(colour.stripes.colour, colour.fill) >= 1.1  # and can be seen


def test_every_pattern_is_defined_once_and_every_chip_of_the_legend_has_its_own() -> None:
    graph = graph_of(MANY)
    root = ElementTree.fromstring(to_svg(graph, params_of(graph)))
    patterns = [each.attrib["id"] for each in root.iter(f"{SVG}pattern")]
    assert len(patterns) == len(set(patterns)) == 300 - 24
    used = {each.attrib["fill"] for each in root.iter(f"{SVG}rect")}
    assert {f"url(#{name})" for name in patterns} <= used


@settings(max_examples=40)
@given(nested_signatures(max_visits=40))
def test_svg_has_the_options_of_every_loop_in_full(text: str) -> None:
    graph = graph_of(text)
    root = ElementTree.fromstring(to_svg(graph, params_of(graph)))
    drawn = " ".join(str(words.text) for words in root.iter(f"{SVG}text"))
    for loop in graph.loops():
        assert loop.options.text in " ".join(drawn.split())
    width = float(root.attrib["width"])
    for words in root.iter(f"{SVG}text"):
        assert len(str(words.text)) * float(words.attrib["font-size"]) * 0.57 <= width


def pixels(png: bytes) -> Any:
    image = importlib.import_module("matplotlib.image")
    return (image.imread(io.BytesIO(png))[..., :3] * 255).round().astype(int)


@pytest.mark.parametrize("text", ["(A^3)B", MANY[:120], "A^3{adapter=lora(8), inject=concat}B"])
def test_png_has_the_colours_of_the_svg_where_it_has_boxes(text: str) -> None:
    graph = graph_of(text)
    picture, root = (
        pixels(to_png(graph, params_of(graph))),
        ElementTree.fromstring(to_svg(graph, params_of(graph))),
    )
    assert picture.shape[1] == pytest.approx(2 * float(root.attrib["width"]), abs=1)
    assert picture.shape[0] == pytest.approx(2 * float(root.attrib["height"]), abs=1)
    colours, boxes = block_colours(graph), 0
    for outer in root.iter(f"{SVG}g"):
        left, top = [float(n) for n in re.findall(r"[\d.]+", outer.get("transform", ""))] or (0, 0)
        for group in outer.findall(f"{SVG}g"):
            box = group.find(f"{SVG}rect")
            if group.get("class") == "visit" and box is not None:
                x = left + float(box.attrib["x"]) + float(box.attrib["width"]) / 2
                y = top + float(box.attrib["y"]) + 2  # above whatever is written inside
                colour, boxes = colours[str(group.get("data-block"))], boxes + 1
                allowed = {colour.fill, colour.stripes.colour if colour.stripes else colour.fill}
                around = picture[
                    round(2 * y) : round(2 * y) + 3, round(2 * x) - 9 : round(2 * x) + 9
                ]
                seen = {f"#{r:02x}{g:02x}{b:02x}" for r, g, b in around.reshape(-1, 3).tolist()}
                assert seen & allowed
                assert colour.stripes or seen == {colour.fill}
    assert boxes == min(len(list(graph.steps())), 48) if text != "(A^3)B" else boxes == 2


def test_pdf_is_one_page_of_the_size_of_the_svg_the_same_each_time() -> None:
    graph = graph_of("(A^3)B")
    pdf = to_pdf(graph, params_of(graph))
    root = ElementTree.fromstring(to_svg(graph, params_of(graph)))
    assert pdf.startswith(b"%PDF-")
    assert len(re.findall(rb"/Type /Page\b", pdf)) == 1
    (box,) = re.findall(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", pdf)
    for side, points in zip(("width", "height"), box, strict=True):
        assert float(points) == pytest.approx(0.75 * float(root.attrib[side]), abs=1)
    assert pdf == to_pdf(graph, params_of(graph))


def test_a_picture_of_many_blocks_stays_within_bounds() -> None:
    graph = graph_of(MANY)
    tall = to_svg(graph, params_of(graph)).replace(' height="', ' height="9', 1)
    assert max(pixels(to_figure(tall, "png")).shape) <= 16_384


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.0 k"),
        (99_940, "99.9 k"),
        (99_960, "100 k"),
        (999_499, "999 k"),
        (999_600, "1.0 M"),
        (124_439_808, "124 M"),
        (1_100_048_384, "1.1 B"),
        (10**16, "10000 T"),
    ],
)
def test_short_numbers(number: int, text: str) -> None:
    assert short_number(number) == text


def test_tree() -> None:
    graph = graph_of("((A^2)B)^2A", layers=6)
    assert tree_lines(graph, params_of(graph)) == [
        "((A^2)B)^2A",
        "├─ \N{MULTIPLICATION SIGN}2  repeat AB",
        "│  ├─ \N{MULTIPLICATION SIGN}2  repeat A",
        "│  │  └─ A  3 layers, 1.1 M parameters",
        "│  └─ B  3 layers, 2.2 M parameters",
        "└─ A  3 layers, shared",
    ]


def test_schedule() -> None:
    assert schedule_lines(graph_of("(A^3)B", layers=6)) == [
        "visits  A    A    A    B",
        "layers  0-2  0-2  0-2  3-5",
    ]


@given(signatures(max_visits=60))
def test_schedule_is_folded_and_complete(text: str) -> None:
    graph = graph_of(text)
    lines = schedule_lines(graph, width=40)
    shown = [name for line in lines if line.startswith("visits") for name in line.split()[1:]]
    assert shown == schedule(graph)
    widest = max(len(name) for name in graph.blocks)
    assert max(map(len, lines)) <= max(40, 8 + widest, 8 + 9)


def test_a_long_schedule_is_cut() -> None:
    lines = schedule_lines(graph_of("(AB)^512"))
    assert lines[-1] == "… and 960 more visits"
    assert len(lines) < 30


def test_towers_of_pictures_and_texts_end_in_embeddings_that_meet() -> None:
    spec = rinsc.towers_spec("image: A^2B, text: AC", preset="siglip-tiny")
    graph = rinsc.build_graph(spec)
    counts = dict.fromkeys("ABC", 1)
    for draw in (to_svg, to_mermaid, to_dot):
        text = draw(graph, counts)
        assert text.count(">embedding<" if draw is to_svg else "embedding") == 2
        assert "logits" not in text
    root = ElementTree.fromstring(to_svg(graph, counts))
    words = {one.text: one for one in root.findall(".//{*}text")}
    width = float(root.attrib["width"])
    assert float(words["pairs"].attrib["x"]) < width - 32
    assert float(words["pairs"].attrib["x"]) > width - 112
