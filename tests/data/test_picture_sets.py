"""Sets of pictures that packages carry: complete, compared, with concepts that are never seen."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rinsc.data import packages
from rinsc.data.corpora import added_folder, files_sha256, state
from rinsc.data.packages import files_of
from rinsc.data.pairs import open_classes, open_pairs
from rinsc.data.pairs import sets as module
from rinsc.data.pairs.add import add_pictures, drawn
from rinsc.data.pairs.captions import canonical
from rinsc.data.pairs.sets import (
    READERS,
    Described,
    PictureSet,
    chosen_sets,
    names_unseen,
    picture_sets,
    unseen_concepts,
)
from rinsc.errors import DataError
from rinsc.progress import SilentProgress
from tests.cli.command_line import run_cli
from tests.data.pairs_made import picture

SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="{0}" height="{1}">{2}</svg>'
RED = '<rect x="10" y="10" width="40" height="20" fill="#f00"/>'


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RINSC_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.mark.parametrize("name", picture_sets())
def test_a_set_is_complete(name: str) -> None:
    found = picture_sets()[name]
    assert found.get in ("npm", "debian")
    assert found.use in ("train", "style")
    assert found.reader in READERS
    assert found.licence
    assert found.title
    assert found.bytes > 10_000_000
    for version, sha256 in found.sha256.items():
        assert version
        assert re.fullmatch(r"[0-9a-f]{64}", sha256)


@pytest.mark.parametrize("name", picture_sets())
def test_an_installed_package_is_the_known_one(name: str) -> None:
    found = picture_sets()[name]
    if found.get != "debian":
        pytest.skip("it is fetched")
    try:
        with packages.opened_package(found) as (root, version):
            files = dict(files_of(found, root))
    except DataError:
        pytest.skip("it is not installed")
    if version in found.sha256:
        assert files_sha256(files)[0] == found.sha256[version]


def test_concepts_are_words_and_whole_words_name_them() -> None:
    concepts = unseen_concepts()
    assert len(concepts) == len(set(concepts)) > 40
    assert all(canonical(concept) == concept for concept in concepts)
    assert names_unseen("Two Sharks!")
    assert names_unseen("a volley-ball")
    assert names_unseen("the fire engines")
    assert not names_unseen("a duckling")
    assert not names_unseen("fire in the engine")


def test_captions_of_a_picture() -> None:
    grapes = Described(Path(), "grapes", ("fruit", "grapes", "fruit", "vine"), "food & drink")
    assert grapes.captions == ["grapes", "grapes, fruit, vine", "grapes, food & drink"]
    assert Described(Path(), "x").captions == ["x"]


def test_a_drawing_stands_in_the_middle_of_a_square() -> None:
    for width in ("100", "100mm", "100pt"):
        data = drawn(SVG.format(width, width, RED).encode())
        assert data is not None
        image = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA")).astype(int)
        side = len(image)
        assert image.shape == (side, side, 4)
        assert image[side // 2, side // 2].tolist() == [255, 0, 0, 255]
        assert image[side // 8, side // 2, 3] == image[-side // 8, side // 2, 3] == 0
        assert image[side // 2, side // 16, 3] > 200  # twice as wide as high, from side to side


@pytest.mark.parametrize("svg", ["words", SVG.format(9, 9, ""), SVG.format(0, 0, RED), "<svg/>"])
def test_a_drawing_that_shows_nothing(svg: str) -> None:
    assert drawn(svg.encode()) is None


def test_a_drawing_reads_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outside = tmp_path / "outside.png"
    outside.write_bytes(picture(1))
    for link in (str(outside), outside.as_uri(), "outside.png"):
        image = f'<image href="{link}" width="50" height="50"/>'
        assert drawn(SVG.format(50, 50, image).encode()) is None


# Packages of our own, with the forms of the real ones.

EMOJI = {
    "1F600": ("grinning face", "smileys-emotion", "face-smiling"),
    "1F347": ("grapes", "food-drink", "food-fruit"),
    "1F34E": ("red apple", "food-drink", "food-fruit"),
    "1F415": ("dog", "animals-nature", "animal-mammal"),
    "1F988": ("shark", "animals-nature", "animal-marine"),
    "2764-FE0F": ("red heart", "smileys-emotion", "heart"),
}


def write_packages(folder: Path) -> None:
    groups = ["smileys-emotion", "food-drink", "animals-nature"]
    subgroups = sorted({facts[2] for facts in EMOJI.values()})
    data: list[dict[str, object]] = [
        {
            "hexcode": code,
            "label": name,
            "tags": ["tag"],
            "group": groups.index(group),
            "subgroup": subgroups.index(subgroup),
            "skins": [{"hexcode": f"{code}-1F3FB", "label": f"{name}: light skin tone"}],
        }
        for code, (name, group, subgroup) in EMOJI.items()
    ]
    data.append({"hexcode": "1F1E6", "label": "regional indicator"})
    numbered = {"groups": dict(enumerate(groups)), "subgroups": dict(enumerate(subgroups))}
    labels = {"en/data.json": json.dumps(data), "meta/groups.json": json.dumps(numbered)}
    drawings: dict[str, str | bytes] = {}
    rows = []
    for number, (code, (name, group, subgroup)) in enumerate(EMOJI.items()):
        shape = f'<circle cx="30" cy="30" r="{10 + number}" fill="#0{number}f"/>'
        drawings[f"color/svg/{code}.svg"] = SVG.format(72, 72, shape)
        rows.append(
            {"hexcode": code, "annotation": name, "tags": "tag, other", "openmoji_tags": ""}
            | {"group": group, "subgroups": subgroup, "skintone": ""}
        )
    drawings["data/openmoji.json"] = json.dumps(rows)
    google: dict[str, str | bytes] = {
        f"img/google/64/{code.lower()}{skin}.png": picture(100 * number + len(skin))
        for number, code in enumerate(EMOJI)
        for skin in ("", "-1f3fb")
    }
    fluent: dict[str, str | bytes] = {
        f"assets/{code.lower()}.webp": picture(7 + number, "WEBP")
        for number, code in enumerate(EMOJI)
    }
    for name, files in (
        ("openmoji@17.0.0", drawings),
        ("emoji-datasource-google@16.0.0", google),
        ("emojibase-data@17.0.0", labels),
        ("@lobehub/fluent-emoji-3d@1.1.0", fluent),
    ):
        path = folder / f"{name.replace('/', '+')}.tgz"
        with tarfile.open(path, "w:gz") as archive:
            for file, content in files.items():
                info = tarfile.TarInfo(f"package/{file}")
                content = content.encode() if isinstance(content, str) else content
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program npm that copies packages from a folder, and notes what it was told."""
    folder = tmp_path / "registry"
    folder.mkdir()
    write_packages(folder)
    program = tmp_path / "bin" / "npm"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\n"
        "import os, shutil, sys\n"
        f"with open({str(tmp_path / 'told')!r}, 'a') as file:\n"
        "    print(os.getcwd(), *sys.argv[1:], file=file)\n"
        "target = sys.argv[sys.argv.index('--pack-destination') + 1]\n"
        "name = sys.argv[-1].replace('/', '+') + '.tgz'\n"
        f"shutil.copy(os.path.join({str(folder)!r}, name), target)\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return folder


@pytest.fixture
def known(npm: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, PictureSet]:
    """The sets of npm with the digests of these packages."""
    sets = {}
    for name, one in picture_sets().items():
        if one.get == "npm":
            with packages.opened_package(one) as (root, version):
                sha256 = files_sha256(dict(files_of(one, root)))[0]
            sets[name] = dataclasses.replace(one, sha256={version: sha256})
    monkeypatch.setattr(module, "picture_sets", lambda: sets)
    monkeypatch.setattr("rinsc.data.pairs.opened.picture_sets", lambda: sets)
    monkeypatch.setattr("rinsc.data.pairs.classes.picture_sets", lambda: sets)
    return sets


def captions_in(name: str, side: int = 16) -> dict[str, tuple[str, ...]]:
    pairs = open_pairs(name, side, progress=SilentProgress())
    return {pairs.picture_name(i): pairs.captions(i) for i in range(len(pairs))}


def test_sets_are_added_and_trained_on_without_what_is_never_seen(
    known: dict[str, PictureSet], tmp_path: Path
) -> None:
    added = {name: add_pictures(one, SilentProgress()) for name, one in known.items()}
    assert {name: state(name) for name in known} == dict.fromkeys(known, "added")
    assert [(one.pictures, one.unseen, one.left_out) for one in added.values()] == [
        (5, 1, 0),  # the shark
        (10, 1, 1),  # each twice; a shark with a colour of its skin is left out
        (5, 1, 0),
    ]
    every = captions_in("pairs:pictures")
    assert len(every) == 15
    assert not any("fluent" in name for name in every)
    assert not any("shark" in text for texts in every.values() for text in texts)
    one = captions_in("pairs:pictures/openmoji")
    assert one["pictures/00001.png"] == (
        *("grapes", "grapes, tag, other"),
        "grapes, food & drink",
    )
    told = (tmp_path / "told").read_text().splitlines()
    assert all("--ignore-scripts" in line for line in told)
    assert not any(line.startswith(f"{Path.cwd()} ") for line in told)


def test_classes_are_of_the_style_and_the_concepts_that_are_not_trained_on(
    known: dict[str, PictureSet],
) -> None:
    for one in known.values():
        add_pictures(one, SilentProgress())
    groups = open_classes("emoji-groups", 16, progress=SilentProgress())
    assert groups.classes == ("animals & nature", "food & drink", "smileys & emotion")
    assert sorted(groups.labels.tolist()) == [0, 1, 1, 2, 2]
    assert groups.pixels(0).shape == (3, 16, 16)
    assert groups.pixels(np.array([0, 1])).shape == (2, 3, 16, 16)
    names = open_classes("emoji-names", 16, progress=SilentProgress())
    assert names.classes == ("dog", "grapes", "grinning face", "red apple", "red heart")
    assert open_classes("emoji-subgroups", 16, progress=SilentProgress()).classes == (
        *("animal mammal", "face smiling", "food fruit", "heart"),
    )
    with pytest.raises(DataError) as caught:  # a single concept
        open_classes("emoji-unseen", 16, progress=SilentProgress())
    assert caught.value.code == "too-few-classes"


def test_other_pictures_are_refused_and_the_old_ones_kept(known: dict[str, PictureSet]) -> None:
    one = known["pictures/noto"]
    add_pictures(one, SilentProgress())
    before = sorted(path.name for path in added_folder(one.name).rglob("*"))
    for sha256, code in ({"16.0.0": "0" * 64}, "other-pictures"), ({"15.0": "0" * 64}, None):
        with pytest.raises(DataError) as caught:
            add_pictures(dataclasses.replace(one, sha256=sha256), SilentProgress())
        assert caught.value.code == (code or "download-failed")
    assert sorted(path.name for path in added_folder(one.name).rglob("*")) == before


def test_without_npm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError) as caught:
        add_pictures(picture_sets()["pictures/openmoji"], SilentProgress())
    assert caught.value.code == "no-npm"


def test_sets_that_were_not_added() -> None:
    for name, hint in (("pictures", "pictures"), ("pictures/noto", "pictures/noto")):
        with pytest.raises(DataError) as caught:
            open_pairs(f"pairs:{name}", 16, progress=SilentProgress())
        assert (caught.value.code, caught.value.hint) == (
            "corpus-not-added",
            f"rinsc data add {hint}",
        )
    with pytest.raises(DataError) as caught:
        open_classes("emoji-groups", 16, progress=SilentProgress())
    assert caught.value.code == "corpus-not-added"
    with pytest.raises(DataError, match="did you mean 'emoji-groups'"):
        open_classes("emoji-group", 16)
    with pytest.raises(DataError, match="did you mean 'pictures/noto'"):
        chosen_sets("pictures/notto")


def test_the_command(known: dict[str, PictureSet], monkeypatch: pytest.MonkeyPatch) -> None:
    done = run_cli("data", "add", "pictures/noto")
    assert done.status == 0, done.err
    assert "16.0.0" in done.out
    assert "Apache-2.0" in done.out
    done = run_cli("data", "add", "pictures", "--json")
    assert [row["name"] for row in json.loads(done.out)] == list(known)
    wrong = run_cli("data", "add", "pictures/otto")
    assert wrong.status == 2
    assert "pictures/noto" in wrong.err
    missing = dataclasses.replace(picture_sets()["pictures/noto"], name="pictures/tux")
    missing = dataclasses.replace(missing, get="debian", package="no-such-package")
    known["pictures/tux"] = missing
    done = run_cli("data", "add", "pictures", "--json")
    assert done.status == 0, done.err
    assert len(json.loads(done.out)) == 3
    assert "pictures/tux is left out" in done.err


def test_clip_art_and_stamps_are_read(tmp_path: Path) -> None:
    head = "<metadata><dc:title>{}</dc:title><rdf:Bag><rdf:li>pet</rdf:li></rdf:Bag></metadata>"
    files = {}
    titles = ["Clipart by A B - dog_03", "2 c&amp;aacute;ts &amp; a dog", "", *["card"] * 13]
    for number, title in enumerate(titles):
        path = tmp_path / "animals" / "big_pets" / f"a_beast_{number:02}.svg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(SVG.format(60, 60, head.format(title) + RED))
        files[f"animals/big_pets/{path.name}"] = path
    read = list(READERS["openclipart"](list(files.items())))
    assert [one.title for one in read[:4]] == ["dog", "2 c\u00e1ts & a dog", "a beast", "a beast"]
    assert read[0].captions == ["dog", "dog, pet", "dog, big pets"]
    stamps = tmp_path / "stamps" / "fruit"
    stamps.mkdir(parents=True)
    (stamps / "a.png").write_bytes(picture(0))
    (stamps / "a.txt").write_text("A red apple.\nde.utf8=Ein roter Apfel.\n")
    (stamps / "b.png").write_bytes(picture(1))
    names = {f"fruit/{path.name}": path for path in sorted(stamps.iterdir())}
    (one,) = READERS["tuxpaint"](list(names.items()))
    assert one.captions == ["A red apple", "A red apple, fruit"]


def test_folders_of_classes(tmp_path: Path) -> None:
    folder = tmp_path / "classes"
    for label in ("big_dog", "cat"):
        (folder / label).mkdir(parents=True)
        for number in range(3):
            (folder / label / f"{number}.png").write_bytes(picture(number + len(label) * 10))
    (folder / "loose.png").write_bytes(picture(99))
    progress = SilentProgress()
    found = open_classes(str(folder), 8, progress=progress)
    assert found.classes == ("big dog", "cat")
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.picture_name(4) == "cat/1.png"
    assert "loose.png (it stands in no folder of a class)" in progress.notes[0]
    rows = [{"image": f"cat/{n}.png", "label": f"kind {n % 2}"} for n in range(3)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    lines = open_classes(str(folder / "rows.jsonl"), 8, progress=SilentProgress())
    assert (lines.classes, lines.labels.tolist()) == (("kind 0", "kind 1"), [0, 1, 0])
