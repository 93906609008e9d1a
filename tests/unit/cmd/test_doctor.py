"""``netstack doctor``: reports everything it promises, and says what is lacking."""

import json
import os

import pytest

from netstack.cmd import doctor, hostprobe
from netstack.cmd.main import main


def report(capsys: pytest.CaptureFixture[str]) -> dict:
    """Run ``doctor --json`` and return the object it prints."""
    code = main(["doctor", "--json"])
    assert code == 0
    return json.loads(capsys.readouterr().out)


def test_json_has_every_section(capsys: pytest.CaptureFixture[str]) -> None:
    seen = report(capsys)
    assert {"interpreter", "kernels", "processor", "real ports", "extras"} <= set(seen)
    assert seen["lacking"] == []
    assert seen["kernels"]["compiled"] is True
    assert seen["kernels"]["cpu level"] in seen["kernels"]["levels built"]
    assert seen["processor"]["affinity"] == sorted(os.sched_getaffinity(0))


def test_text_names_the_build(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "release" in text or "checked" in text


def test_what_is_lacking_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "NEEDED", ("netstack.no_such_part",))
    assert main(["doctor", "--json"]) == 3
    captured = capsys.readouterr()
    assert "netstack.no_such_part" in captured.err
    assert len(json.loads(captured.out)["lacking"]) == 1


def test_probes_answer_without_raising() -> None:
    assert hostprobe.has_capability("CAP_NET_RAW") in (True, False)
    assert hostprobe.can_open_socket("AF_XDP") in (True, False)
    assert hostprobe.has_membarrier() in (True, False)
    assert hostprobe.clock_resolution_ns() > 0
    assert 0 < hostprobe.clock_step_ns() < 1e9
