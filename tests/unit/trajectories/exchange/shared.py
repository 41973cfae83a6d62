"""Where real data lies, if it is there."""

from __future__ import annotations

from pathlib import Path

SWE_AGENT = Path(__file__).resolve().parents[5] / "shared" / "data" / "swe-agent"
