"""Datasets: from labelled trajectories to examples with a proven loss mask."""
