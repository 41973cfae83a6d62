"""Training examples as they lie on disk: what `hpc.datasets` writes and `hpc.training` reads.

An example is one token sequence with the mask that says which of its tokens are trained. A dataset is a
folder of HDF5 shards and a manifest, which is written last: a folder without one is not whole.
"""

from hpc.examples.dataset import MANIFEST, Dataset
from hpc.examples.example import Example
from hpc.examples.manifest import FORMAT_VERSION, Manifest, ShardEntry
from hpc.examples.writer import DatasetWriter

__all__ = ["FORMAT_VERSION", "MANIFEST", "Dataset", "DatasetWriter", "Example", "Manifest", "ShardEntry"]
