"""The shipped tokenizer, and episodes whose ids an engine could have given."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpc.datasets.template import Template

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def template() -> Template:
    return Template(REPOSITORY / "models" / "minilab-tiny")
