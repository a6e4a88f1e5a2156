"""Names that `kvlab.generation` had: they work for this release, with a warning."""

from kvlab.old._names import former

__getattr__ = former(
    "kvlab.generation",
    generate_uncached="kvlab.measure.uncached.generate_uncached",
    stream_uncached="kvlab.measure.uncached.stream_uncached",
)
