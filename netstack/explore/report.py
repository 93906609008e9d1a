"""What an exploration found, in numbers and in words; and what it cannot have seen.

Both tiers report in this form.  Context: anywhere.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["BLIND_SPOTS", "Report", "ViolationError"]

# Printed with every report that is asked what it proves; docs/explorer.md explains each.
BLIND_SPOTS = (
    "modules compiled once (tables seen from the control plane, queues, wires, mbufs): a call is one step",
    "plain Python statements between two primitives are one step",
    "plain, non-atomic data of kernels: no race is reported (ThreadSanitizer does that)",
    "memory orders weaker than a one-entry store buffer per CPU: the SPIN models and C11 checkers",
    "an interrupt inside a compiled kernel on the same CPU: no machine takes one there",
    "real time: time limits, ageing against the host's clock, starvation by load",
    "schedules that were not run: a clean random run is evidence, only an exhausted dfs is a proof, "
    "and only within its bound of preemptions",
)


class ViolationError(AssertionError):
    """A schedule broke what a scenario asserts; the text has the token and the listing."""


@dataclass
class Report:
    """One scenario explored by one strategy."""

    scenario: str
    tier: str  # "python" or "compiled"
    strategy: str
    seed: int
    schedules: int = 0
    steps: int = 0
    states: int = 0  # distinct final states
    seconds: float = 0.0
    is_exhausted: bool = False  # dfs: every schedule within the bound was run
    delayed_stores: bool = False
    mutant: str = ""
    failure: str = ""  # "" when nothing was found
    found_after: int = 0  # schedules, the failing one included
    token: str = ""
    digest: str = ""
    preemptions: int = 0  # of the failing schedule, after shrinking
    listing: str = field(default="", repr=False)
    diverged: int = 0  # schedules in which the scenario was not deterministic

    @property
    def is_clean(self) -> bool:
        """True when no schedule failed."""
        return not self.failure

    @property
    def blind_spots(self) -> tuple[str, ...]:
        """What this exploration cannot see."""
        return BLIND_SPOTS

    def check(self) -> Report:
        """Return the report itself when it is clean.

        Raises: ViolationError -- with the failure, the token and the step-by-step listing.
        """
        if self.failure:
            raise ViolationError(str(self))
        return self

    def as_dict(self) -> dict[str, Any]:
        """Return all fields, for JSON."""
        return {**asdict(self), "is_clean": self.is_clean, "blind_spots": list(self.blind_spots)}

    def __str__(self) -> str:
        delayed = ", delayed stores" if self.delayed_stores else ""
        mutant = f", mutant {self.mutant}" if self.mutant else ""
        how = f"{self.strategy}, seed {self.seed}{delayed}{mutant}"
        head = f"{self.scenario} ({how}): {self.schedules} schedules, {self.steps} steps, {self.states} states"
        if not self.failure:
            return f"{head}: clean{' and exhausted' if self.is_exhausted else ''}"
        return (
            f"{head}\n{self.failure}\n{self.listing}\n"
            f"again: netstack explore --replay {self.token}"
        )
