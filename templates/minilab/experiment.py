"""Tests the current stage of recipe.yaml on the instrument. Spends one run."""

import json
import os
import socket
import sys
from pathlib import Path


def main() -> int:
    try:
        recipe = Path("recipe.yaml").read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        print(f"error: cannot read recipe.yaml: {error.strerror}")
        return 2
    address = os.environ.get("MINILAB_INSTRUMENT", "")
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.connect(address)
            link.sendall(json.dumps({"recipe": recipe}).encode() + b"\n")
            answer = link.makefile("rb").readline()
        printout = json.loads(answer)
    except (OSError, ValueError):
        print("error: the instrument does not answer")
        return 3
    for line in printout["lines"]:
        print(line)
    return int(printout["exit_code"])


if __name__ == "__main__":
    sys.exit(main())
