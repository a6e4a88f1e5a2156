"""One model over several processes, on torch.distributed: layers shared, or one after the other."""

from kvlab.parallel.mesh import Mesh, Messages
from kvlab.parallel.micro_batches import pipelined
from kvlab.parallel.planner import Devices, Split, Workload, plan
from kvlab.parallel.sharding import shard_
from kvlab.parallel.starting import joined, start
from kvlab.parallel.traffic import added, exchanged

__all__ = [
    "Devices", "Mesh", "Messages", "Split", "Workload", "added", "exchanged", "joined",
    "pipelined", "plan", "shard_", "start",
]  # fmt: skip
