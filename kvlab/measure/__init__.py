"""Watching from outside: clocks, what a machine could do at best, and the machine itself.

Things are compared by running them in turn in one process and looking at the ratio of each pair. A
time on its own says more about the machine than about the code. What the machine could do at best,
`roofline` measures, and `decode_work` and `prefill_work` say what there is to do. `engaged` tells
whether a compressed cache is in use. `probe` watches a model at work and is imported by its own
name.
"""

from kvlab.measure.clocks import (
    Comparison,
    clock,
    compare,
    interleaved,
    synchronize,
    threads,
)
from kvlab.measure.engaging import engaged
from kvlab.measure.hardware import cpu_name, machine
from kvlab.measure.in_use import InUse
from kvlab.measure.limits import (
    Roofline,
    Work,
    copy_bandwidth,
    decode_work,
    gemm_rate,
    prefill_work,
    read_bandwidth,
    roofline,
)

__all__ = [
    "Comparison", "InUse", "Roofline", "Work", "clock", "compare", "copy_bandwidth", "cpu_name",
    "decode_work", "engaged", "gemm_rate", "interleaved", "machine", "prefill_work",
    "read_bandwidth", "roofline", "synchronize", "threads",
]  # fmt: skip
