"""Start the server: ``python scripts/local_slack --port 0 --ready-file PATH.json``."""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a folder: make the folder a package
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from local_slack.server import main

if __name__ == "__main__":
    main()
