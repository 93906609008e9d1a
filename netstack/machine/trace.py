"""What a virtual machine did: a digest over every handler activation, and on demand a list.

Two runs with one seed have one digest, on any host and Python; a different digest says that
something read a clock, an address or the order of a set.
"""

from hashlib import blake2b
from typing import NamedTuple

__all__ = ["Activation", "Trace"]


class Activation(NamedTuple):
    """The start of one handler; ``work`` counts what its CPU was charged for before."""

    time_ns: int
    cpu: int
    context: str
    handler: str
    work: int

    def __str__(self) -> str:
        return f"{self.time_ns:>12} ns  CPU#{self.cpu:<2} {self.context:<6} {self.handler}"


class Trace:
    """A running digest; ``keep`` also collects the activations."""

    def __init__(self) -> None:
        self._hash = blake2b(digest_size=16)
        self._batch: list[str] = []
        self.activations = 0
        self.keep = False
        self.kept: list[Activation] = []

    def add(self, time_ns: int, cpu: int, context: str, handler: str, work: int) -> None:
        """Note one activation."""
        self.activations += 1
        self._batch.append(f"{time_ns} {cpu} {context} {handler} {work}\n")
        if len(self._batch) >= 256:
            self._flush()
        if self.keep:
            self.kept.append(Activation(time_ns, cpu, context, handler, work))

    def digest(self) -> str:
        """Return the digest so far, in hex."""
        self._flush()
        return self._hash.hexdigest()

    def _flush(self) -> None:
        self._hash.update("".join(self._batch).encode())
        self._batch.clear()
