"""Pictures with captions: read from folders, lines, tables and shards, and drawn in one order."""

from __future__ import annotations

import gzip
import json
import os
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
)
from rinsc.errors import DataError
from rinsc.progress import SilentProgress
from tests.data.pairs_made import (
    by_name,
    folder_of_pairs,
    noise,
    opened,
    picture,
    squashed,
    tar_of,
)


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RINSC_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


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
    side = 64
    size = 30 * 3 * side * side
    monkeypatch.setenv("RINSC_PICTURE_CACHE", str(int(2.5 * size)))
    left = data_folder / "pictures" / ".pixels-of-a-killed-command.part"
    left.mkdir(parents=True)
    for number in range(3):
        folder = tmp_path / f"set{number}"
        folder.mkdir()
        for one in range(30):
            (folder / f"{one}.png").write_bytes(picture(100 * number + one))
            (folder / f"{one}.txt").write_text("words")
        opened(folder, side)
        for path in (data_folder / "pictures").glob("pixels-*/record.json"):
            past = path.stat().st_mtime - 1000
            os.utime(path, (past, past))
        opened(tmp_path / "set0", side)  # used again
    folders = list((data_folder / "pictures").glob("pixels-*"))
    assert len(folders) == 2
    assert not left.exists()
    monkeypatch.setattr("rinsc.data.pairs.store.decoded", None)
    opened(tmp_path / "set0", side)
    opened(tmp_path / "set2", side)


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


def test_folders_of_parts_are_kept(tmp_path: Path) -> None:
    for name, count in (("train", 9), ("validation", 3)):
        folder_of_pairs(tmp_path / "set" / name, count)
    for number in range(3):  # pictures of their own
        (tmp_path / "set" / "validation" / f"{number}.png").write_bytes(picture(50 + number))
    pairs, _ = opened(tmp_path / "set")
    names = {pairs.picture_name(int(index)) for index in pairs.held_out}
    assert names == {f"validation/{number}.png" for number in range(3)}
    assert len(pairs.train) == 9


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


def test_a_table_that_the_library_datasets_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"photo": [Image.fromarray(noise(n)) for n in range(12)], "said": ["x y"] * 12}
    features = datasets.Features({"photo": datasets.Image(), "said": datasets.Value("string")})
    written = datasets.Dataset.from_dict(rows, features=features)
    written.to_parquet(str(tmp_path / "x.parquet"))
    written.save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "folder").mkdir()
    written.to_parquet(str(tmp_path / "folder" / "train.parquet"))
    metadata = tmp_path / "imagefolder"
    metadata.mkdir()
    for number in range(12):
        (metadata / f"{number:02}.png").write_bytes(picture(number))
    lines = [json.dumps({"file_name": f"{n:02}.png", "said": "x y"}) for n in range(12)]
    (metadata / "metadata.jsonl").write_text("\n".join(lines))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for where in (
        *(tmp_path / "x.parquet", tmp_path / "saved"),
        *(f"hf:{tmp_path / 'folder'}?split=train", f"hf:{metadata}?caption=said"),
    ):
        pairs, notes = opened(where)
        assert (len(pairs), notes) == (12, "")
        np.testing.assert_array_equal(pairs.pixels(0), squashed(0))
    for where in (tmp_path / "x.parquet?split=train", f"hf:{tmp_path / 'folder'}?split=nothing"):
        with pytest.raises(DataError) as caught:
            opened(where)
        assert caught.value.code == "bad-option"


def test_text_is_not_trained_on_pictures(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds pictures with captions, and text is needed"):
        open_corpus(f"pairs:{tmp_path}")
