"""Runs whose pages have no plots: drawing them takes longer than the searches here."""

from __future__ import annotations

import pytest


@pytest.fixture
def plots() -> None:
    """For a test of the whole page."""


@pytest.fixture(autouse=True)
def _quick_pages(request: pytest.FixtureRequest) -> None:
    if "plots" not in request.fixturenames:
        request.getfixturevalue("no_plots")
