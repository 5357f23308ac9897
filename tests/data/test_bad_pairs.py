"""Pictures and captions that cannot be used: told by name, and never a crash."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rinsc.errors import DataError
from tests.data.pairs_made import (
    by_name,
    encoded,
    folder_of_pairs,
    opened,
    picture,
    tar_of,
)


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RINSC_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


# What is wrong with one picture is told by name, and the others are used.
PROBLEMS: dict[str, tuple[dict[str, bytes], str]] = {
    "no picture": ({"bad.png": b"<svg/>"}, "it is no picture of a known format"),
    "cut off": ({"bad.png": picture(5)[:300]}, "the picture is damaged"),
    "empty": ({"bad.png": b""}, "its file is empty"),
    "one pixel": (
        {"bad.png": encoded(Image.new("RGB", (1, 1)))},
        "it has a single pixel, which shows nothing",
    ),
    "bomb": (
        {"bad.png": encoded(Image.new("1", (10_000, 10_000)))},
        "it has 100 million pixels; at most 89 million are decoded",
    ),
    "larger bomb": (
        {"bad.png": encoded(Image.new("1", (20_000, 20_000)))},
        "it has too many pixels; at most 89 million are decoded",
    ),
    "no caption": ({"bad.txt": b""}, "its caption is empty"),
    "spaces": ({"bad.txt": b" \n\t\n"}, "its caption is empty"),
    "marks alone": ({"bad.txt": b"!!! ..."}, "its caption holds no word"),
    "latin-1": ({"bad.txt": "caf\xe9".encode("latin-1")}, "not UTF-8 text at byte 3"),
    "a program": ({"bad.png": b"%!PS-Adobe-3.0 EPSF-3.0\n"}, "no picture of a known format"),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_picture_that_cannot_be_used_is_told_by_name(tmp_path: Path, problem: str) -> None:
    files, message = PROBLEMS[problem]
    folder = folder_of_pairs(tmp_path / "set")
    for name, data in {"bad.png": picture(99), "bad.txt": b"words", **files}.items():
        (folder / name).write_bytes(data)
    pairs, notes = opened(folder)
    assert len(pairs) == 30
    assert notes.startswith("1 picture was left out: bad.png (")
    assert message in notes
    assert pairs.record["corpus"]["left_out"] == 1
    assert opened(folder)[1] == notes  # told again where all is in the cache
    if not problem.startswith(("no caption", "spaces", "marks", "latin")):
        rows = "".join(
            json.dumps({"image": f"{n}.png", "text": "x"}) + "\n" for n in [*range(9), "bad"]
        )
        (folder / "rows.jsonl").write_text(rows)
        assert message in opened(folder / "rows.jsonl")[1]
        shard = {f"{n}.png": picture(n) for n in range(9)} | {
            "bad.png": (folder / "bad.png").read_bytes()
        }
        members = {k: d for n, p in shard.items() for k, d in ((n, p), (f"{n[:-4]}.txt", b"words"))}
        pairs, notes = opened(tar_of(tmp_path / "rows.tar", members))
        assert len(pairs) == 9
        assert message in notes


def test_many_problems_are_counted_and_a_few_are_shown(tmp_path: Path) -> None:
    folder = folder_of_pairs(tmp_path / "set")
    for number in range(30, 50):
        (folder / f"{number}.png").write_bytes(b"x")
        (folder / f"{number}.txt").write_text("words")
    notes = opened(folder)[1]
    assert notes.startswith("20 pictures were left out: 30.png (")
    assert notes.endswith(", and 15 more")
    assert notes.count("\n") == 0


def test_nothing_outside_of_the_folder_is_read(tmp_path: Path) -> None:
    folder = folder_of_pairs(tmp_path / "set")
    outside = tmp_path / "outside.png"
    outside.write_bytes(picture(77))
    (folder / "link.png").symlink_to(outside)
    (folder / "link.txt").write_text("words")
    (folder / "inner.png").symlink_to(folder / "3.png")
    (folder / "inner.txt").write_text("words")
    (folder / "away").symlink_to(tmp_path)
    rows = [
        *({"image": name, "text": "x"} for name in ("0.png", "1.png", "../set/2.png", "inner.png")),
        *({"image": name, "text": "x"} for name in ("../outside.png", str(outside), "link.png")),
        *({"image": name, "text": "x"} for name in ("away/outside.png", "a://b/c.png", "", "\0")),
        *({"image": name, "text": "x"} for name in ("none.png", "away", "9" * 5000)),
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pairs, notes = opened(folder)
    assert "inner.png" in by_name(pairs)
    assert f"link.png (it lies outside of {folder}; ?root=FOLDER allows it)" in notes
    pairs, notes = opened(folder / "rows.jsonl")
    assert len(pairs) == 4
    assert pairs.skipped.count == 10
    reasons = Counter(problem.partition(";")[0] for _, problem in pairs.skipped.examples)
    assert reasons[f"it lies outside of {folder}"] == 5
    assert reasons["it is an address"] == 1
    pairs, notes = opened(f"{folder / 'rows.jsonl'}?root={tmp_path}")
    assert pairs.skipped.count == 6


def test_a_shard_reaches_nothing_and_unpacks_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:

        def put(name: str, data: bytes, **facts: Any) -> None:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in facts.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data))

        for number in range(9):
            put(f"{number}.png", picture(number))
            put(f"{number}.txt", b"words")
        for name in ("/abs/of", "../up"):
            put(f"{name}.png", picture(20))
            put(f"{name}.txt", b"words")
        put("link.png", b"", type=tarfile.SYMTYPE, linkname="/etc/hostname")
        put("link.txt", b"words")
        put("lonely.txt", b"words")
        put("silent.png", picture(21))
        put("other.cls", b"7")
    before = sorted(tmp_path.rglob("*"))
    pairs, _ = opened(path)
    assert len(pairs) == 9
    told = {name.removeprefix("x.tar: "): problem for name, problem in pairs.skipped.examples}
    assert told == {
        "/abs/of": "its name leads out of the archive",
        "../up": "its name leads out of the archive",
        "link": "it is a link or a device, which is not followed",
        "lonely": "it has a caption and no picture",
        "silent": "it has no caption",
    }
    assert [p for p in sorted(tmp_path.rglob("*")) if "data" not in p.parts] == before


def test_a_huge_member_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rinsc.data.pairs.raw.MAX_FILE_BYTES", 2000)
    members = {f"{n}.{e}": d for n in range(9) for e, d in (("png", picture(n)), ("txt", b"words"))}
    members |= {"big.png": bytes(100_000), "big.txt": b"words"}
    _, notes = opened(tar_of(tmp_path / "x.tar", members))
    assert "big (its file has 100,000 bytes; at most 2,000 are read)" in notes


@pytest.mark.parametrize("damage", ["cut", "text"])
def test_a_damaged_shard_or_table_is_one_error(tmp_path: Path, damage: str) -> None:
    members = {f"{n}.{e}": d for n in range(9) for e, d in (("png", picture(n)), ("txt", b"words"))}
    for name in ("x.tar", "x.parquet", "x.arrow", "x.tar.gz"):
        path = tar_of(tmp_path / name, members)
        path.write_bytes(path.read_bytes()[:1000] if damage == "cut" else b"no such file\n" * 100)
        with pytest.raises(DataError) as caught:
            opened(path)
        assert caught.value.code == "damaged-file"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "the line is not JSON"),
        (b"7", "the line is no JSON object"),
        (b'{"image": "0.png", "text": "\xe9"}', "the line is not UTF-8 text"),
        (b'{"image": 7, "text": "x"}', "the picture's path is no text"),
        (b'{"image": "1.png", "text": 7}', "its caption is no text"),
        (b'{"image": "1.png", "text": ["x", null]}', "its caption is no text"),
        (b'{"image": "1.png", "text": null}', "it has no caption"),
        (b'{"image": "1.png", "text": []}', "its caption is empty"),
        (b'{"image": "1.png", "text": "\\ud800"}', "its caption holds no word"),
    ],
)
def test_a_damaged_line_is_told(tmp_path: Path, line: bytes, message: str) -> None:
    folder = folder_of_pairs(tmp_path / "set")
    good = [json.dumps({"image": f"{n}.png", "text": "x"}).encode() for n in range(2, 20)]
    (folder / "rows.jsonl").write_bytes(b"\n".join([*good, line]))
    pairs, notes = opened(folder / "rows.jsonl")
    assert len(pairs) == 18
    assert message in notes


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("none", "no-such-path"),
        ("empty", "no-text-files"),
        ("words", "no-pictures"),
        ("words/a.md", "unknown-format"),
        ("set/rows.jsonl?image=nothing", "no-such-field"),
        ("set/rows.jsonl?caption=nothing", "no-such-field"),
        ("set/rows.jsonl?captoin=text", "unknown-option"),
        ("silent", "too-few-pictures"),
        ("one", "too-few-pictures"),
        ("alike", "too-few-pictures"),
    ],
)
def test_a_name_that_stands_for_nothing(tmp_path: Path, name: str, code: str) -> None:
    folder = folder_of_pairs(tmp_path / "set", 6)
    (folder / "rows.jsonl").write_text('{"image": "0.png", "text": "x"}')
    for made in ("empty", "words", "silent"):
        (tmp_path / made).mkdir()
    (tmp_path / "words" / "a.md").write_text("words")
    (tmp_path / "silent" / "a.png").write_bytes(picture(0))
    folder_of_pairs(tmp_path / "one", 1)
    folder_of_pairs(tmp_path / "alike", 1)
    (tmp_path / "alike" / "b.png").write_bytes(picture(0))
    (tmp_path / "alike" / "b.txt").write_text("words")
    with pytest.raises(DataError) as caught:
        opened(tmp_path / name)
    assert caught.value.code == code
