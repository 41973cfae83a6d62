"""Tests of real files beside the checkout stand aside where there is no such folder."""

from __future__ import annotations

from tests.unit.trajectories.exchange.shared import SWE_AGENT

collect_ignore = [] if SWE_AGENT.is_dir() else ["test_real_files.py"]
