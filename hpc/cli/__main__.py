"""``python -m hpc.cli`` is the same program as ``hpc``."""

from hpc.cli import main

main()
