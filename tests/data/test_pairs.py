"""Pictures with captions: read from folders, lines, tables and shards, and drawn in one order."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rinsc.data.corpora import open_corpus
from rinsc.data.documents import part_of
from rinsc.data.pairs import (
    HeldOutPairs,
    PicturePairs,
    TrainingPairs,
    collate_pairs,
    learned_caption_tokenizer,
    open_pairs,
)
from rinsc.errors import DataError
from rinsc.progress import SilentProgress
from tests.data.pairs_made import encoded, folder_of_pairs, noise, picture, tar_of

SIDE = 8


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RINSC_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def opened(where: Path | str, side: int = SIDE) -> tuple[PicturePairs, str]:
    """The pairs, and the notes."""
    progress = SilentProgress()
    pairs = open_pairs(f"pairs:{where}", side, progress=progress)
    return pairs, "\n".join(progress.notes)


def by_name(pairs: PicturePairs) -> dict[str, tuple[str, ...]]:
    return {pairs.picture_name(i): pairs.captions(i) for i in range(len(pairs))}


def squashed(number: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    image = Image.fromarray(noise(number)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.asarray(image).transpose(2, 0, 1)


def test_a_folder_of_pictures_with_captions_beside_them(tmp_path: Path) -> None:
    folder = folder_of_pairs(tmp_path / "set")
    (folder / "7.txt").write_text("one\n\n two \none\n")
    pairs, notes = opened(folder)
    assert notes == ""
    assert len(pairs) == 30
    captions = by_name(pairs)
    assert captions["7.png"] == ("one", "two")
    assert captions["11.png"] == ("Picture, the 11th!",)
    for index in range(len(pairs)):
        number = int(pairs.picture_name(index).removesuffix(".png"))
        np.testing.assert_array_equal(pairs.pixels(index), squashed(number))
    both = np.array([3, 1])
    np.testing.assert_array_equal(pairs.pixels(both), np.stack([pairs.pixels(3), pairs.pixels(1)]))


def test_every_form_of_the_same_pairs_gives_the_same_pairs(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")

    folder = folder_of_pairs(tmp_path / "set", 20)
    rows = [(f"{n}.png", f"Picture, the {n}th!", picture(n)) for n in range(20)]
    lines = "".join(json.dumps({"image": n, "caption": c}) + "\n" for n, c, _ in rows)
    (folder / "pairs.jsonl").write_text(lines)
    (folder / "packed.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (folder / "table.csv").write_text(
        "file_name,text\n" + "".join(f'{n},"{c}"\n' for n, c, _ in rows)
    )
    metadata = tmp_path / "imagefolder"
    (metadata / "a").mkdir(parents=True)
    for name, _, data in rows:
        (metadata / "a" / name).write_bytes(data)
    (metadata / "metadata.jsonl").write_text(
        "".join(json.dumps({"file_name": f"a/{n}", "text": c}) + "\n" for n, c, _ in rows)
    )
    table = pyarrow.table(
        {
            "id": list(range(20)),
            "image": [{"bytes": data, "path": None} for _, _, data in rows],
            "text": [[caption] for _, caption, _ in rows],
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet", row_group_size=7)
    with (
        pyarrow.OSFile(str(tmp_path / "rows.arrow"), "wb") as file,
        pyarrow.ipc.new_stream(file, table.schema) as stream,
    ):
        stream.write_table(table)
    members: dict[str, bytes] = {}
    for name, caption, data in rows:
        members |= {
            f"x/{name}": data,
            f"x/{name[:-4]}.json": json.dumps({"caption": caption}).encode(),
        }
    tar_of(tmp_path / "0.tar", members)
    texts = {f"{n[:-4]}.{e}": d for n, c, p in rows for e, d in (("png", p), ("txt", c.encode()))}
    tar_of(tmp_path / "texts.tar", texts)
    wanted: dict[tuple[str, ...], Any] = {
        (caption,): squashed(n) for n, (_, caption, _) in enumerate(rows)
    }
    for where in (
        *(folder, folder / "pairs.jsonl", folder / "packed.jsonl.gz", folder / "table.csv"),
        *(metadata, tmp_path / "rows.parquet", tmp_path / "rows.arrow"),
        *(tmp_path / "0.tar", tmp_path / "texts.tar"),
    ):
        pairs, notes = opened(where)
        assert notes == "", where
        assert {pairs.captions(i) for i in range(len(pairs))} == wanted.keys(), where
        for index in range(len(pairs)):
            np.testing.assert_array_equal(pairs.pixels(index), wanted[pairs.captions(index)])


def test_equal_pictures_are_decoded_once_for_all_runs(
    tmp_path: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = opened(folder_of_pairs(tmp_path / "one"))
    monkeypatch.setattr("rinsc.data.pairs.store.decoded", None)  # nothing is decoded again
    again, _ = opened(tmp_path / "one")
    copy, _ = opened(folder_of_pairs(tmp_path / "two"))
    for other in (again, copy):
        np.testing.assert_array_equal(first.store.pixels, other.store.pixels)
        np.testing.assert_array_equal(first.train, other.train)
    (tmp_path / "one" / "3.txt").write_text("another caption")
    assert by_name(opened(tmp_path / "one")[0])["3.png"] == ("another caption",)
    assert len(list((data_folder / "pictures").glob("pixels-*"))) == 1


def test_a_changed_picture_is_decoded_anew(tmp_path: Path) -> None:
    folder = folder_of_pairs(tmp_path / "set")
    opened(folder)
    (folder / "4.png").write_bytes(picture(400))
    pairs, _ = opened(folder)
    index = [pairs.picture_name(i) for i in range(len(pairs))].index("4.png")
    np.testing.assert_array_equal(pairs.pixels(index), squashed(400))


def test_a_damaged_cache_is_made_anew(tmp_path: Path, data_folder: Path) -> None:
    folder = folder_of_pairs(tmp_path / "set")
    whole, _ = opened(folder)
    (path,) = (data_folder / "pictures").glob("pixels-*/pixels")
    data, pixels = bytearray(path.read_bytes()), np.array(whole.store.pixels)
    data[77] ^= 0x55
    path.write_bytes(data)
    np.testing.assert_array_equal(opened(folder)[0].store.pixels, pixels)


def test_an_interrupted_decoding_leaves_nothing(
    tmp_path: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of_pairs(tmp_path / "set")

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("rinsc.data.pairs.store.file_records", fail)
        with pytest.raises(KeyboardInterrupt):
            opened(folder)
    assert list((data_folder / "pictures").glob("*pixels-*/*")) == []
    assert len(opened(folder)[0]) == 30


def test_the_sets_used_longest_ago_make_room(
    tmp_path: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 30 * 3 * SIDE * SIDE
    monkeypatch.setenv("RINSC_PICTURE_CACHE", str(int(2.5 * size) + 2000))
    for number in range(3):
        folder = tmp_path / f"set{number}"
        folder.mkdir()
        for one in range(30):
            (folder / f"{one}.png").write_bytes(picture(100 * number + one))
            (folder / f"{one}.txt").write_text("words")
        opened(folder)
        for path in (data_folder / "pictures").glob("pixels-*/record.json"):
            past = path.stat().st_mtime - 1000
            os.utime(path, (past, past))
        opened(tmp_path / "set0")  # used again
    folders = list((data_folder / "pictures").glob("pixels-*"))
    assert len(folders) == 2
    monkeypatch.setattr("rinsc.data.pairs.store.decoded", None)
    opened(tmp_path / "set0")
    opened(tmp_path / "set2")


def test_a_limit_that_is_no_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINSC_PICTURE_CACHE", "plenty")
    with pytest.raises(DataError, match="'plenty' is no count of bytes"):
        opened(folder_of_pairs(tmp_path / "set"))


def test_a_disk_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rinsc.data.pairs.store.SPARE_BYTES", 1 << 60)
    with pytest.raises(DataError) as caught:
        opened(folder_of_pairs(tmp_path / "set"))
    assert caught.value.code == "no-room"


def test_what_is_held_out_goes_by_the_picture(tmp_path: Path) -> None:
    from hashlib import sha256

    folder = folder_of_pairs(tmp_path / "set", 60)
    for number in range(60):  # each picture twice
        (folder / f"copy{number}.png").write_bytes(picture(number))
        (folder / f"copy{number}.txt").write_text("a copy")
    pairs, _ = opened(folder)
    assert len(pairs.train) + len(pairs.held_out) == len(pairs) == 120
    for index in range(len(pairs)):
        number = int(pairs.picture_name(index).removeprefix("copy").removesuffix(".png"))
        held_out = part_of(sha256(picture(number)).digest()) == "held_out"
        assert (index in pairs.held_out) == held_out
    assert len(pairs.store.pixels) == 60


def test_a_split_in_the_data_is_kept(tmp_path: Path) -> None:
    folder = folder_of_pairs(tmp_path / "set", 12)
    splits = ["train", "validation", "test"]
    rows = [{"image": f"{n}.png", "text": "x", "split": splits[n % 3]} for n in range(12)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pairs, _ = opened(folder / "rows.jsonl")
    assert [pairs.picture_name(int(i)) for i in pairs.train] == [f"{n}.png" for n in (0, 3, 6, 9)]


def test_several_lines_of_a_picture_are_several_captions(tmp_path: Path) -> None:
    folder = folder_of_pairs(tmp_path / "set", 9)
    rows = [{"path": f"{n % 9}.png", "title": f"caption {n}"} for n in range(27)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pairs, _ = opened(folder / "rows.jsonl")
    assert by_name(pairs)["4.png"] == ("caption 4", "caption 13", "caption 22")


@pytest.fixture
def several(tmp_path: Path) -> PicturePairs:
    folder = folder_of_pairs(tmp_path / "several")
    for number in range(30):
        text = "\n".join(f"word{number} {one}" for one in range(1 + number % 4))
        (folder / f"{number}.txt").write_text(text + "\nthe same" * (number % 2))
    return opened(folder)[0]


def test_seed_and_epoch_alone_decide_the_order(several: PicturePairs) -> None:
    tokenizer = learned_caption_tokenizer(several, 300, 8)

    def run(seed: int, indices: range) -> list[tuple[bytes, bytes]]:
        examples = TrainingPairs(several, tokenizer, seed)
        every = map(examples.window, indices)
        return [(pair.pixels.tobytes(), pair.input_ids.tobytes()) for pair in every]

    count = len(several.train)
    whole = run(7, range(3 * count))
    assert run(7, range(3 * count)) == whole
    assert run(7, range(count + 5, 2 * count)) == whole[count + 5 : 2 * count]  # after a resume
    assert run(8, range(count)) != whole[:count]
    epochs = [whole[start : start + count] for start in range(0, 3 * count, count)]
    pictures = [Counter(pixels for pixels, _ in epoch) for epoch in epochs]
    assert pictures[0] == pictures[1] == pictures[2]
    assert set(pictures[0].values()) == {1}
    assert epochs[0] != epochs[1]


def test_each_caption_of_a_picture_is_drawn_equally_often(several: PicturePairs) -> None:
    tokenizer = learned_caption_tokenizer(several, 300, 12)
    examples = TrainingPairs(several, tokenizer, 3)
    epochs = 300
    drawn: dict[bytes, Counter[int]] = {}
    for index in range(epochs * len(examples)):
        pair = examples.window(index)
        drawn.setdefault(pair.pixels.tobytes(), Counter())[pair.caption] += 1
    for index in several.train:
        counts = drawn[several.pixels(int(index)).tobytes()]
        captions = several.captions(int(index))
        assert len(counts) == len(captions)
        expected = epochs / len(captions)
        assert all(abs(count - expected) < 6 * expected**0.5 for count in counts.values())


def test_equal_captions_share_a_number(several: PicturePairs) -> None:
    tokenizer = learned_caption_tokenizer(several, 300, 12)
    examples = TrainingPairs(several, tokenizer, 0)
    by_ids: dict[bytes, set[int]] = {}
    for index in range(8 * len(examples)):
        pair = examples.window(index)
        by_ids.setdefault(pair.input_ids.tobytes(), set()).add(pair.caption)
    assert all(len(numbers) == 1 for numbers in by_ids.values())
    assert len(set.union(*by_ids.values())) == len(by_ids)


def test_a_batch(several: PicturePairs) -> None:
    tokenizer = learned_caption_tokenizer(several, 300, 8)
    held_out = HeldOutPairs(several, tokenizer)
    batch = collate_pairs([held_out.window(index) for index in range(len(held_out))])
    pixels = np.stack([several.pixels(int(index)) for index in several.held_out])
    np.testing.assert_allclose(batch["pixel_values"], (pixels / 255 - 0.5) / 0.5, atol=1e-6)
    assert batch["pixel_values"].dtype == np.float32
    captions = [several.captions(int(index))[0] for index in several.held_out]
    np.testing.assert_array_equal(batch["input_ids"], tokenizer.encode(captions))
    assert len(held_out.spread(2)) == 2


def test_a_note_says_how_many_captions_are_cut(several: PicturePairs) -> None:
    tokenizer = learned_caption_tokenizer(several, 258, 8)  # a token for each byte
    progress = SilentProgress()
    TrainingPairs(several, tokenizer, 0).captions.tell_truncated(progress)
    texts = [c for i in several.train for c in several.captions(int(i))]
    cut = sum(len(text) + 1 > 8 for text in texts)
    assert progress.notes == [
        f"{cut} of {len(texts)} captions have more than 8 tokens, and lose the rest"
    ]


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


def test_several_columns_of_pictures_must_be_chosen(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")

    cells = [{"bytes": picture(n), "path": f"{n}.png"} for n in range(12)]
    other = [{"bytes": picture(n + 50), "path": ""} for n in range(12)]
    texts = [f"caption {n}" for n in range(12)]
    table = pyarrow.table({"left": cells, "right": other, "said": texts, "noise": texts})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    for query, code in (("", "several-columns"), ("?image=left", "no-such-field")):
        with pytest.raises(DataError) as caught:
            opened(f"{tmp_path / 'x.parquet'}{query}")
        assert caught.value.code == code
    pairs, _ = opened(f"{tmp_path / 'x.parquet'}?image=right&caption=said")
    np.testing.assert_array_equal(pairs.pixels(0), squashed(50))


def test_a_table_that_the_library_datasets_wrote(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"photo": [Image.fromarray(noise(n)) for n in range(12)], "said": ["x y"] * 12}
    features = datasets.Features({"photo": datasets.Image(), "said": datasets.Value("string")})
    written = datasets.Dataset.from_dict(rows, features=features)
    written.to_parquet(str(tmp_path / "x.parquet"))
    written.save_to_disk(str(tmp_path / "saved"))
    for where in ("x.parquet", "saved"):
        pairs, notes = opened(tmp_path / where)
        assert (len(pairs), notes) == (12, "")
        np.testing.assert_array_equal(pairs.pixels(0), squashed(0))


def test_text_is_not_trained_on_pictures(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds pictures with captions, and text is needed"):
        open_corpus(f"pairs:{tmp_path}")
