"""``netstack.cmd.main``: one line and one exit code for every way a command can end."""

import errno

import click
import pytest

from netstack.cmd import doctor
from netstack.cmd.main import COMMANDS, cli, main
from netstack.errors import EnvironmentLacksError, NetstackError, PrivilegeError


def ends_with(monkeypatch: pytest.MonkeyPatch, outcome: object) -> int:
    """Run ``netstack doctor`` with a body that returns or raises ``outcome``."""

    def body(**_: object) -> object:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    monkeypatch.setattr(doctor.command, "callback", body)
    return main(["doctor"])


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (None, 0),
        (0, 0),
        (4, 4),
        (NetstackError(errno.ENOENT, "bridge0: no such bridge"), 1),
        (EnvironmentLacksError(errno.ENODEV, "/dev/net/tun: not here"), 3),
        (PrivilegeError(errno.EPERM, "eth0: needs CAP_NET_RAW"), 3),
        (ImportError("not built", name="netstack._fast"), 3),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_code(monkeypatch: pytest.MonkeyPatch, outcome: object, code: int) -> None:
    assert ends_with(monkeypatch, outcome) == code


def test_a_refusal_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ends_with(monkeypatch, NetstackError(errno.ENOENT, "wm9: no such interface"))
    assert capsys.readouterr().err == "netstack: wm9: no such interface (ENOENT)\n"


def test_an_unrelated_import_error_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImportError):
        ends_with(monkeypatch, ImportError("no module", name="matplotlib"))


@pytest.mark.parametrize("args", [["nosuch"], ["doctor", "--nosuch"]])
def test_usage_exits_2(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(args) == 2
    assert "nosuch" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("netstack 0.")


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.help
