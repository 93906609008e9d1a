"""Rows as JSON lines, CSV and tables."""

import csv
import io
import json

from rich.console import Console

from netstack.rfc2544.report import KEYS, Row, as_csv, as_json, tables


def row(**changes):
    values = {
        "clock": "virtual",
        "kernel": "NET_MPSAFE",
        "frame": "classic",
        "cores": 4,
        "frame_bytes": 74,
        "kfps": 705.4,
        "mbps": 417.6,
        "loss": 0.0,
        "trials": 5,
        "n": 1,
        "offered_kfps": 705.4,
        "failed_kfps": 710.0,
        "flat_out_kfps": None,
        "wire_percent": 26.5,
        "paused_percent": 0.0,
        "trial_s": 0.02,
        "resolution": 0.01,
        "drain": "one",
        "addresses": 256,
        "seed": 1,
        "counts": "something",
        "noisy": "",
    }
    return Row(**{**values, **changes})


def text_of(rows):
    console = Console(width=100, file=io.StringIO())
    console.print(tables(rows))
    return console.file.getvalue()


def test_json_line_has_the_contracts_keys_first():
    line = as_json(row())
    assert "\n" not in line
    assert tuple(json.loads(line))[: len(KEYS)] == KEYS


def test_csv_reads_back():
    lines = list(csv.DictReader(io.StringIO(as_csv([row(), row(cores=8)]))))
    assert [line["cores"] for line in lines] == ["4", "8"]
    assert float(lines[0]["kfps"]) == 705.4


def test_table_has_a_column_for_each_kernel_and_core_count():
    text = text_of([row(), row(cores=8, kfps=1147.1), row(kernel="GENERIC", cores=1, kfps=99.3)])
    assert "705.4" in text and "1,147.1" in text and "99.3" in text
    assert "8 cores" in text and "1 core" in text


def test_caption_says_what_is_counted():
    assert "cost model" in text_of([row()])
    wall = " ".join(text_of([row(clock="wall", kfps=23456.0)]).split())
    assert "generators and of draining the sinks is included" in wall
    assert "23.46" in wall


def test_a_noisy_point_is_marked_and_explained():
    text = text_of([row(noisy="trials disagree")])
    assert "705.4?" in text and "trials disagree" in text
