"""From a shell the operator's tools explain that no machine listens, and what works instead."""

import pytest

from netstack.cmd.main import EXIT_LACKS, main


@pytest.mark.parametrize(
    ("words", "form"),
    [
        (["brconfig", "bridge0", "-learn", "wm0"], "m.command('brconfig bridge0 -learn wm0')"),
        (["ifconfig", "-v"], "m.command('ifconfig -v')"),
        (["intrctl", "affinity", "-i", "wm0 RX1", "-c", "1"], "wm0 RX1"),
        (["intrctl", "list", "--json"], "m.command('intrctl list --json')"),
        (["brconfig"], "m.command('brconfig')"),
    ],
)
def test_exit_3_and_the_form_that_works(words: list[str], form: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == EXIT_LACKS
    shown = capsys.readouterr()
    assert shown.out == ""
    assert form in shown.err
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize("name", ["brconfig", "ifconfig", "intrctl"])
def test_help_shows_the_python_form(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert f'm.command("{name} ' in capsys.readouterr().out
