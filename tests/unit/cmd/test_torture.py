"""``netstack torture``: what it prints, and its exit codes."""

import dataclasses
import json
from typing import Any

import pytest

from netstack.cmd import torture
from netstack.cmd.main import main


def test_one_json_object_per_part(capsys: Any) -> None:
    assert main(["torture", "locks", "--for", "0.4", "--threads", "2", "--seed", "5", "--json"]) in (0, 4)
    out = capsys.readouterr()
    rows = [json.loads(line) for line in out.out.splitlines()]
    assert [row["part"] for row in rows] == ["spin lock", "TX handover"]
    assert all(row["seed"] == 5 and row["threads"] == 2 and not any(row["violations"].values()) for row in rows)
    assert "seed 5" in out.err


def test_a_planted_error_is_exit_1(capsys: Any) -> None:
    assert main(["torture", "grace", "--for", "3", "--threads", "4", "--seed", "5", "--mutant", "no_wait"]) == 1
    assert "VIOLATED: grace seqcst (too_old " in capsys.readouterr().out


def test_too_little_pressure_is_exit_4(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calm = [dataclasses.replace(p, near_misses_per_s=1e12) for p in torture.PARTS if p.name == "spin lock"]
    monkeypatch.setattr(torture, "PARTS", calm)
    assert main(["torture", "locks", "--for", "0.1"]) == 4
    assert "spin lock met too few near misses" in capsys.readouterr().out


def test_an_unknown_mutant_is_a_usage_error(capsys: Any) -> None:
    assert main(["torture", "pool", "--mutant", "nobody"]) == 2
    assert "one of spill_unlocked, leak" in capsys.readouterr().err


def test_the_conclusion_claims_no_more_than_the_run_shows() -> None:
    part = torture.PARTS[0]
    counts = {"sections": 10**9, "near_misses": 10**6, "grace_periods": 10**6}
    fine = torture.Outcome(part, 60.0, 3, counts, {"too_old": 0})
    assert fine.verdict == "ok"
    text = torture.conclusion([fine])
    assert "once in 20 s" in text and "95 %" in text and "not of memory order" in text
    bad = dataclasses.replace(fine, violations={"too_old": 2})
    assert torture.conclusion([fine, bad]) == "VIOLATED: grace seqcst (too_old 2)."
    assert fine.as_dict()["mean_time_between_failures_above_s"] == 20.0
    assert bad.as_dict()["mean_time_between_failures_above_s"] is None
