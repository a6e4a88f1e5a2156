"""One model over several processes, on torch.distributed: layers shared, or one after the other."""

from kvlab.parallel.mesh import Mesh, Messages
from kvlab.parallel.micro_batches import pipelined
from kvlab.parallel.sharding import shard_
from kvlab.parallel.starting import joined, start
from kvlab.parallel.traffic import added, exchanged

__all__ = ["Mesh", "Messages", "added", "exchanged", "joined", "pipelined", "shard_", "start"]
