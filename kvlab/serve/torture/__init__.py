"""Any server that speaks OpenAI's interface, put to the test from outside."""

from kvlab.serve.torture.running import CASES, Outcome, run

__all__ = ["CASES", "Outcome", "run"]
