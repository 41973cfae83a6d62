"""Apollo-HPC: asynchronous human guidance for long-horizon LLM agents on Slurm."""

__version__ = "0.1.0"
