from typing import NamedTuple

UNSEEN: tuple[str, ...]

class Scenario(NamedTuple):
    name: str
    description: str
    ncpu: int
    mutants: tuple[str, ...]

class Mutant(NamedTuple):
    name: str
    scenario: str
    breaks: str
    strategy: str
    delayed_stores: bool
    budget: int

class Result(NamedTuple):
    schedules: int
    steps: int
    violations: int
    choices: bytes
    digest: int
    message: str
    is_exhausted: bool

SCENARIOS: dict[str, Scenario]
MUTANTS: dict[str, Mutant]

def run(
    name: str,
    schedules: int,
    strategy: str = "random",
    seed: int = 0,
    mutant: str = "",
    delayed_stores: bool | int = False,
    stop_at_first: bool = True,
    depth: int = 3,
    preemptions: int = 2,
) -> Result: ...
def replay(name: str, choices: bytes, mutant: str = "", delayed_stores: bool | int = False) -> Result: ...
def trace(
    name: str, choices: bytes, mutant: str = "", delayed_stores: bool | int = False
) -> list[tuple[int, str, int]]: ...
