"""Runs a module in a process whose clock is wrong: ``wrong_clock SECONDS MODULE [ARGUMENT…]``."""

from __future__ import annotations

import runpy
import sys
import time

seconds, module = float(sys.argv[1]), sys.argv[2]
right, right_ns = time.time, time.time_ns
time.time = lambda: right() + seconds  # before anything that would keep the right one is imported
time.time_ns = lambda: right_ns() + int(seconds * 1e9)
sys.argv = sys.argv[2:]
runpy.run_module(module, run_name="__main__")
