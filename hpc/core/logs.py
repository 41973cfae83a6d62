"""Logging: human lines to stderr, never to stdout, which carries data."""

from __future__ import annotations

import logging
import sys

FORMAT = "%(asctime)s %(levelname).1s %(name)s: %(message)s"


def setup_logging(verbosity: int = 0) -> None:
    """Log to stderr: warnings by default, info at 1, debug at 2 and above."""
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(max(verbosity, 0), 2)]
    logging.basicConfig(level=level, format=FORMAT, stream=sys.stderr, force=True)
    for noisy in ("httpx", "httpcore", "slack_sdk", "asyncio"):
        logging.getLogger(noisy).setLevel(max(level, logging.WARNING))
