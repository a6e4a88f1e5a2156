"""The tables of docs/negative.md: of each record, what did not work."""

from benchmarks.filling import Table
from benchmarks.negative import answers, decoding, laws, packing, serving

TABLES: dict[str, Table] = {}
for part in (decoding, serving, laws, answers, packing):
    TABLES |= part.TABLES
