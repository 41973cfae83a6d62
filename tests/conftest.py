"""Fixtures that several test modules share."""

pytest_plugins = ["tests.integration.slurm_cluster", "tests.integration.vllm_server"]
