"""The trajectory store: what an episode did, durable step by step, readable as HDF5."""
