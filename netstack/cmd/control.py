"""What the operator's commands share: flag words, numbers, the answer when no machine listens.

``brconfig``, ``ifconfig`` and ``intrctl`` are functions on a machine, ``run(machine, argv)``,
reached by ``Machine.command``.  From a shell they would need a machine that runs as a service;
there is none in this version, and ``refuse`` says so.
"""

from collections.abc import Sequence
from errno import EINVAL, ENOTCONN
from shlex import join
from typing import NoReturn

from netstack.errors import EnvironmentLacksError, NetstackError

__all__ = ["IFFBITS", "Bits", "flags_text", "number", "refuse", "usage"]

Bits = Sequence[tuple[int, str]]

IFFBITS: Bits = (
    (0x1, "UP"),
    (0x2, "BROADCAST"),
    (0x40, "RUNNING"),
    (0x100, "PROMISC"),
    (0x800, "SIMPLEX"),
    (0x8000, "MULTICAST"),
)


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
