"""Fail the test during which a sanitizer reported something; loaded by ``run.py`` with ``-p sanitize.plugin``."""

import os
from collections.abc import Generator
from pathlib import Path

import pytest

REPORTS = Path(os.environ.get("NETSTACK_SANITIZE_REPORTS", "/nonexistent"))


def size() -> int:
    """Return how much has been reported so far, in bytes."""
    return sum(path.stat().st_size for path in REPORTS.glob("report*"))


def since(seen: int) -> str:
    """Return what was reported after ``seen`` bytes."""
    text = "".join(path.read_text(encoding="utf-8", errors="replace") for path in sorted(REPORTS.glob("report*")))
    return text[seen:]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Look at the reports before and after each test, its fixtures included."""
    before = size()
    result = yield
    if size() > before:
        item.ihook.pytest_runtest_logreport(report=_failure(item, since(before)))
    return result


def _failure(item: pytest.Item, text: str) -> pytest.TestReport:
    return pytest.TestReport(
        nodeid=item.nodeid,
        location=item.location,
        keywords={},
        outcome="failed",
        longrepr=f"a sanitizer reported during this test:\n{text}",
        when="teardown",
    )
