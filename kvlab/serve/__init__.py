"""Many requests on one model: blocks, a scheduler, and the policies that it serves by."""

from kvlab.serve.blocks import BlockPool
from kvlab.serve.policies import POLICIES
from kvlab.serve.request import Request, Step
from kvlab.serve.scheduler import Scheduler

__all__ = ["POLICIES", "BlockPool", "Request", "Scheduler", "Step"]
