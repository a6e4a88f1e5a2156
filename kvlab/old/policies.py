"""`kvlab.policies`, the public name of `kvlab.prune.scores`: it stays, and without a warning."""

import sys

from kvlab.prune import scores

sys.modules[__name__] = scores
