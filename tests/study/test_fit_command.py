"""``rinsc fit`` from outside: tables, JSON, pictures, and files that are no points."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rinsc.study.laws import fit_laws
from tests.cli.command_line import run_cli

TRANSLATION = str(Path(__file__).with_name("translation.csv"))


def points(tmp_path: Path, text: str) -> str:
    path = tmp_path / "points.csv"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_table_ranks_published_models() -> None:
    status, out, err = run_cli("fit", TRANSLATION, "--at", "2", "--gap", "0.02", "--plan")
    assert (status, err) == (0, "")
    (row,) = [line for line in out.splitlines() if line.startswith("28 Enc") and "[" in line]
    assert "better" in row
    assert "a gap of 0.02 at 2 times the largest budget: 9 budgets, 2 times apart, 5 seeds" in out
    assert "least gap" in out


def test_json_is_what_python_gives() -> None:
    status, out, _ = run_cli("fit", TRANSLATION, "--baseline", "Dec-only", "--json")
    assert status == 0
    facts = json.loads(out)
    assert facts == json.loads(json.dumps(fit_laws(TRANSLATION, baseline="Dec-only").facts()))
    assert facts["x"] == "Seen Examples"
    assert facts["variants"]["6 Enc, 28 Dec"]["gap"]["reading"] == "better"
    assert facts["variants"]["Dec-only"]["gap"] is None


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_picture_is_drawn(tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"laws.{suffix}"
    assert run_cli("fit", TRANSLATION, "-o", str(target)).status == 0
    first = target.read_bytes()
    assert len(first) > 5000
    assert run_cli("fit", TRANSLATION, "-o", str(target)).status == 0
    assert target.read_bytes() == first


def test_a_diverged_run_is_counted_and_left_out(tmp_path: Path) -> None:
    lines = [
        "variant,flops,loss",
        *(f"AB,{4**n},{2 + 4 ** -(n / 4)}" for n in range(6)),
        "AB,9,nan",
    ]
    out = run_cli("fit", points(tmp_path, "\n".join(lines))).out
    assert "AB: 1 run diverged and left out" in out


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("a,b\n1,2\n", "no-column", "--x"),
        ("flops,loss\n1,2\n2,x\n3,-1\n", "bad-points", "line 3"),
        ("flops,loss\n-1,2\n", "bad-points", "line 2"),
        ("flops,loss\n" + "".join(f"{4**n},{5 - n}\n" for n in range(4)), "too-few-budgets", "4"),
        ("flops,loss\n", "no-points", "no finished run"),
        ("", "no-column", "the columns are none"),
        ('flops,loss\n"1,2\n', "bad-csv", "no CSV"),
        ("flops,loss\n1\n", "bad-points", "line 2"),
    ],
)
def test_a_bad_file_is_one_error(tmp_path: Path, text: str, code: str, says: str) -> None:
    status, out, err = run_cli("fit", points(tmp_path, text))
    assert (status, out) == (1, "")
    assert f"error[{code}]" in err
    assert says in err
    assert "Traceback" not in err


def test_what_is_no_file_of_points_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "noise.csv").write_bytes(b"\xff\xfe\x00x")
    for name in ("noise.csv", "missing.csv", "."):
        status, _, err = run_cli("fit", str(tmp_path / name))
        assert status == 1
        assert "error[unreadable]" in err


@pytest.mark.parametrize(
    "options",
    [("--at", "0.5"), ("--at", "nan"), ("--gap", "0"), ("--baseline", "nobody"), ("-o", "a.txt")],
)
def test_a_bad_option_is_a_usage_error(options: tuple[str, str]) -> None:
    status, out, err = run_cli("fit", TRANSLATION, *options)
    assert (status, out) == (2, "")
    assert "error[" in err


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_points_as_spreadsheets_write_them(tmp_path: Path, delimiter: str) -> None:
    """A mark of the byte order, spaces, semicolons and tabs: the same law as of the plain file."""
    rows = [("model", " FLOPs ", "Val_Loss")]
    rows += [("AB", f" {4.0**step} ", f"{1.5 + 2 * 4 ** (-step / 5)}") for step in range(6)]
    text = "\n".join(map(delimiter.join, rows))
    facts = fit_laws(points(tmp_path, "\ufeff" + text)).facts()
    assert facts["x"] == "FLOPs"
    assert facts["variants"]["AB"]["exponent"] == pytest.approx(0.2, abs=1e-4)  # type: ignore[index]
    assert "gap to None" not in run_cli("fit", points(tmp_path, text)).out


@pytest.mark.parametrize("rise", [0.0, 0.1])
def test_losses_that_do_not_fall_are_refused(tmp_path: Path, rise: float) -> None:
    text = "flops,loss\n" + "\n".join(f"{4**step},{2 + rise * step}" for step in range(6))
    status, out, _ = run_cli("fit", points(tmp_path, text))
    assert status == 0
    assert ("do not fall" in out) or ("any exponent" in out)
