"""``netstack rfc2544`` as it is used: lines, tables, files, exit codes."""

import json
import os

import pytest

from netstack.cmd import main as command_line
from netstack.rfc2544 import plots
from netstack.rfc2544.report import KEYS

SMALL = ["--trial", "0.01", "--addresses", "8", "--resolution", "0.1"]
VIRTUAL = ["rfc2544", "--clock", "virtual", "--trial", "0.001", "--addresses", "8"]


def run(capsys, *arguments):
    code = command_line.main(list(arguments))
    streams = capsys.readouterr()
    return code, streams.out, streams.err


def rows_of(text):
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.slow
def test_quick_gives_a_row_for_each_point(capsys):
    code, out, err = run(capsys, "rfc2544", "--quick", "--json", *SMALL)
    rows = rows_of(out)
    assert code == (4 if 2 * sum(bool(row["noisy"]) for row in rows) > len(rows) else 0), err
    cores = range(1, min(2, len(os.sched_getaffinity(0))) + 1)
    assert [(r["kernel"], r["cores"], r["frame_bytes"]) for r in rows] == [
        (kernel, count, size) for kernel in ("GENERIC", "NET_MPSAFE") for count in cores for size in (64, 512, 1518)
    ]
    for row in rows:
        assert tuple(row)[: len(KEYS)] == KEYS
        assert row["clock"] == "wall" and row["trials"] >= 1
        assert row["counts"] == "in-memory NICs, generator and drain included"
        if not row["noisy"]:
            assert row["loss"] == 0 and row["kfps"] > 0
            assert row["mbps"] == pytest.approx(row["kfps"] * row["frame_bytes"] * 8 / 1000)


def test_virtual_run_repeats_for_one_seed(capsys):
    arguments = [*VIRTUAL, "--cores", "1,2", "--sizes", "74,1518", "--json"]
    first, again = run(capsys, *arguments), run(capsys, *arguments)
    assert first == again and first[0] == 0
    rows = rows_of(first[1])
    assert [(r["kernel"], r["cores"]) for r in rows] == [
        ("GENERIC", 1),
        ("GENERIC", 1),
        ("NET_MPSAFE", 1),
        ("NET_MPSAFE", 1),
        ("NET_MPSAFE", 2),
        ("NET_MPSAFE", 2),
    ]
    assert all(0 < row["wire_percent"] <= 100.01 for row in rows)
    large = next(row for row in rows if row["kernel"] == "NET_MPSAFE" and row["frame_bytes"] > 74)
    assert large["wire_percent"] == pytest.approx(100, abs=1)


def test_table_and_caption(capsys):
    code, out, _ = run(capsys, *VIRTUAL, "--cores", "1", "--sizes", "1518", "--kernel", "NET_MPSAFE")
    assert code == 0
    assert "kilo frames per second" in out and "cost model" in out


def test_report_writes_rows_and_plots(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    arguments = [*VIRTUAL, "--cores", "1", "--sizes", "1518", "--kernel", "NET_MPSAFE"]
    code, _, err = run(capsys, *arguments, "--json", "--report", str(tmp_path / "r"))
    assert code == 0 and "report in" in err
    record = json.loads((tmp_path / "r" / "results.json").read_text())
    assert [row["frame_bytes"] for row in record["rows"]] == [1518]
    assert record["host"]["processor"]
    assert (tmp_path / "r" / "results.csv").read_text().startswith("clock,kernel,")
    names = {path.name for path in (tmp_path / "r").glob("*.png")}
    assert names == {f"virtual-{figure.stem}.png" for figure in plots.FIGURES}


def test_missing_matplotlib_is_said_before_measuring(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    code, out, err = run(capsys, "rfc2544", "--report", str(tmp_path))
    assert code == 3 and out == ""
    assert "netstack[plot]" in err


def test_a_report_that_cannot_be_written_is_said_before_measuring(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "file").write_text("")
    code, out, err = run(capsys, "rfc2544", "--report", str(tmp_path / "file" / "sub"))
    assert code == 3 and out == "" and "another folder" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--cores", "16"], "virtual measures any number"),
        (["--cores", "17"], "not within"),
        (["--cores", "0"], "not within"),
        (["--cores", "two"], "numbers with commas"),
        (["--sizes", "60"], "not within"),
        (["--sizes", "1519"], "not within"),
        (["--sizes", "64", "--paper-sizes"], "exclude each other"),
        (["--kernel", "LINUX"], "LINUX"),
        (["--drain", "0"], "one, ring, or"),
        (["--loss", "2"], "--loss"),
        (["--trial", "0"], "--trial"),
        (["--clock", "virtual", "--kernel", "GENERIC", "--cores", "4"], "one interrupt per port"),
    ],
)
def test_bad_usage(capsys, arguments, says):
    code, out, err = run(capsys, "rfc2544", *arguments)
    assert code == 2 and out == ""
    assert says in " ".join(err.replace("│", " ").split())


def test_noise_has_its_own_exit_code(capsys, monkeypatch):
    from netstack.cmd import rfc2544 as module
    from netstack.rfc2544.search import Trial
    from netstack.rfc2544.sweep import run as sweep

    class Stuttering:
        """A device whose generators are always late."""

        def __init__(self, setup, trial_s):
            pass

        def load(self, frame_bytes):
            pass

        def flat_out(self):
            return self.trial(1e6)

        def trial(self, rate):
            return Trial(rate, 1.0, 1000, 1000, 1000)

        def close(self):
            pass

    monkeypatch.setattr(module, "run", lambda plan, at_trial=None: sweep(plan, Stuttering, at_trial))
    code, out, err = run(capsys, "rfc2544", "--kernel", "GENERIC", "--cores", "1", "--sizes", "64", "--json")
    assert code == 4 and "too noisy to judge" in err
    assert "generator" in rows_of(out)[0]["noisy"]
