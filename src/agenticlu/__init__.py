"""Agentic long-context understanding: ask, generate, train and evaluate chains of clarifications.

Nothing is imported here on purpose: commands load what they use (AgenticLU, arXiv 2502.15920).
"""

__version__ = "0.1.0"
