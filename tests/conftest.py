"""What all tests share: the seed of a run, and machines that are closed and audited at the end."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

SEED = int(os.environ.get("NETSTACK_SEED", "1"))


def pytest_report_header() -> str:
    """Print with every run what it takes to repeat it."""
    return f"netstack: seed {SEED} (NETSTACK_SEED moves it)"


@pytest.fixture(scope="session")
def seed() -> int:
    """Seed of everything a test draws lots for."""
    return SEED


@pytest.fixture
def machine(seed: int) -> Iterator[Callable[..., Any]]:
    """Return a function that makes machines, ``machine(ncpu=2, clock="wall")``.

    Those still open when the test ends are audited, and all are closed.
    """
    from netstack import Machine

    made: list[Machine] = []

    def make(**settings: Any) -> Machine:
        made.append(Machine(**{"seed": seed, **settings}))
        return made[-1]

    try:
        yield make
        for m in made:
            if "closed" not in repr(m):
                m.audit()
    finally:
        for m in made:
            m.close()
