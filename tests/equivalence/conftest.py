"""Seeds of the random traces: in the summary of every run, and with every failure."""

import os

import pytest

SEEDS_USED: list[str] = []


@pytest.fixture(scope="session")
def base_seed() -> int:
    """Where the fixed traces start; NETSTACK_SEED=N moves it."""
    return int(os.environ.get("NETSTACK_SEED", "1"))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Collect what tests recorded as their seeds (also from other processes)."""
    if report.when == "call":
        SEEDS_USED.extend(value for key, value in report.user_properties if key == "seeds")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the seeds at the end of the run."""
    if SEEDS_USED:
        terminalreporter.section("seeds of the equivalence traces")
        for line in SEEDS_USED:
            terminalreporter.write_line(line)
