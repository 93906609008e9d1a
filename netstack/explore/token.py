"""A schedule as one word: ``ns1:scenario:options:decisions``.

The scenario is a library name, or ``path/file.py:function`` with its colon quoted; the options are
words with commas between them; the decisions are a byte each, deflated and in URL-safe base64.  Both
tiers use it.  A token replays exactly on the same version of the code, on any host.

Context: anywhere.   Limits: ``CHOICES_MAX`` decisions.
"""

from __future__ import annotations

import binascii
import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from errno import EINVAL
from typing import NamedTuple
from urllib.parse import quote, unquote

from netstack.errors import NetstackError

__all__ = ["Token", "decode", "encode"]

VERSION = "ns1"
CHOICES_MAX = 1 << 22
FLAGS = {"coarse": "coarse", "delayed": "delaying"}  # option: field


class Token(NamedTuple):
    """What a token says."""

    scenario: str
    choices: bytes
    mutant: str = ""
    is_delaying: bool = False
    is_coarse: bool = False


def encode(token: Token) -> str:
    """Return the token as text."""
    options = [name for name in FLAGS if getattr(token, f"is_{FLAGS[name]}")]
    if token.mutant:
        options.append(f"mutant={quote(token.mutant, safe='')}")
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(token.choices) + packer.flush()
    body = urlsafe_b64encode(packed).decode().rstrip("=")
    return f"{VERSION}:{quote(token.scenario, safe='/.')}:{','.join(options)}:{body}"


def decode(text: str) -> Token:
    """Read a token.

    Raises: NetstackError(EINVAL) when it is none, or of another version.
    """
    parts = text.strip().split(":")
    if len(parts) != 4 or parts[0] != VERSION:
        raise NetstackError(EINVAL, f"{text[:40]!r} is no token: {VERSION}:scenario:options:decisions")
    _, scenario, options, body = parts
    mutant = ""
    flags: dict[str, bool] = {}
    for option in filter(None, options.split(",")):
        name, _, value = option.partition("=")
        if name in FLAGS:
            flags[f"is_{FLAGS[name]}"] = True
        elif name == "mutant":
            mutant = unquote(value)
        else:
            raise NetstackError(EINVAL, f"token option {option!r}: known are coarse, delayed and mutant=NAME")
    try:
        packed = urlsafe_b64decode(body + "=" * (-len(body) % 4))
        unpacker = zlib.decompressobj(-15)
        choices = unpacker.decompress(packed, CHOICES_MAX)
        if not unpacker.eof:
            raise zlib.error("cut short")
    except (binascii.Error, zlib.error) as problem:
        raise NetstackError(EINVAL, f"token of {unquote(scenario)}: damaged decisions: {problem}") from None
    return Token(unquote(scenario), choices, mutant, **flags)
