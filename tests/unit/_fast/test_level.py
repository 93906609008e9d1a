"""``netstack._fast.level``: the level that is picked, and what a wrong request says."""

import os
import subprocess
import sys

import pytest

from netstack._fast import level


def test_v2_runs_everywhere() -> None:
    assert level.host_levels()[0] == "v2"
    assert level.is_built("v2")


@pytest.mark.parametrize("asked", level.host_levels())
def test_the_variable_decides(monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    monkeypatch.setenv(level.VARIABLE, asked)
    assert level.pick_level() == asked


def test_without_it_the_highest_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(level.VARIABLE, raising=False)
    built = [name for name in level.host_levels() if level.is_built(name)]
    assert level.pick_level() == built[-1]


def test_an_unknown_level_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(level.VARIABLE, "v9")
    with pytest.raises(level.LevelError, match="v9"):
        level.pick_level()


def test_a_level_this_processor_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(level.VARIABLE, "v3")
    monkeypatch.setattr(level, "host_levels", lambda: ("v2",))
    with pytest.raises(level.LevelError, match="cannot run"):
        level.pick_level()


@pytest.mark.parametrize("asked", level.host_levels())
def test_the_modules_of_the_level_are_registered(asked: str) -> None:
    show = (
        "import netstack._fast as f, netstack._fast.kernels as k, netstack._fast.chain as c;"
        "print(f.cpu_level, k.__name__, c.__name__, f.kernels is k)"
    )
    answer = subprocess.run(
        [sys.executable, "-P", "-c", show],
        env={**os.environ, level.VARIABLE: asked},
        capture_output=True,
        text=True,
        check=True,
    )
    names = [f"netstack._fast.{stem}_{asked}" for stem in ("kernels", "chain")]
    assert answer.stdout.split() == [asked, *names, "True"]
