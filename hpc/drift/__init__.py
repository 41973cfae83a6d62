"""Drift: pure detectors over the steps of an episode, and the monitor that turns them into alerts.

An alert asks for a human's attention; it never stops or slows an agent.
"""

from hpc.drift.detectors import DRIFT_DETECTORS
from hpc.drift.history import History
from hpc.drift.monitor import DriftMonitor

__all__ = ["DRIFT_DETECTORS", "DriftMonitor", "History"]
