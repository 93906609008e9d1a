"""What the operator's commands share: flag words, numbers, the answer when no machine listens.

``brconfig``, ``ifconfig`` and ``intrctl`` are functions on a machine, ``run(machine, argv)``,
reached by ``Machine.command``.  From a shell they would need a machine that runs as a service;
there is none in this version, and ``refuse`` says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from errno import EINVAL, ENOTCONN
from importlib import import_module
from shlex import join, split
from typing import TYPE_CHECKING, NoReturn

from netstack.errors import EnvironmentLacksError, NetstackError

if TYPE_CHECKING:
    from netstack.topology import Machine

__all__ = ["IFFBITS", "TOOLS", "Bits", "flags_text", "number", "refuse", "run_command", "usage"]

TOOLS = ("brconfig", "ifconfig", "intrctl")

Bits = Sequence[tuple[int, str]]

IFFBITS: Bits = (
    (0x1, "UP"),
    (0x2, "BROADCAST"),
    (0x40, "RUNNING"),
    (0x100, "PROMISC"),
    (0x800, "SIMPLEX"),
    (0x8000, "MULTICAST"),
)


def run_command(machine: Machine, line: str) -> str:
    """Execute one command line, quoted as in a shell, on a machine; return its output.

    Raises: NetstackError -- EINVAL, no such tool, or quotes that do not match; the tool's own errors.
    """
    try:
        name, *argv = split(line) or [""]
    except ValueError as problem:
        raise NetstackError(EINVAL, f"{line!r}: {problem}") from None
    if name not in TOOLS:
        raise NetstackError(EINVAL, f"{name!r} is no tool of a machine: {', '.join(TOOLS)}")
    run: Callable[[Machine, list[str]], str] = import_module(f"netstack.cmd.{name}").run
    return run(machine, argv)


def flags_text(value: int, bits: Bits) -> str:
    """Return ``flags=41<UP,RUNNING>``: the bits that have names here (NetBSD printb)."""
    shown = [(bit, name) for bit, name in bits if value & bit]
    return f"flags={sum(bit for bit, _ in shown):x}<{','.join(name for _, name in shown)}>"


def number(word: str, what: str, largest: int) -> int:
    """Return a decimal, octal (0...) or hexadecimal (0x...) number up to ``largest``.

    Raises: NetstackError(EINVAL): ``what: invalid value: word``.
    """
    try:
        value = int(word, 8 if word.startswith("0") and word.isdigit() else 0)
    except ValueError:
        value = -1
    if not 0 <= value <= largest:
        raise NetstackError(EINVAL, f"{what}: invalid value: {word}")
    return value


def usage(text: str) -> NetstackError:
    """Return the error for a wrong command line."""
    return NetstackError(EINVAL, f"usage: {text}")


def refuse(name: str, words: Sequence[str]) -> NoReturn:
    """Say that no machine listens, and what works instead.

    Raises: EnvironmentLacksError(ENOTCONN), for which ``netstack`` exits with 3.
    """
    line = join([name, *words])
    raise EnvironmentLacksError(
        ENOTCONN,
        f"{name}: no machine runs as a service here; in Python, m.command({line!r}) does it",
    )
