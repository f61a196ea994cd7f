"""`agenticlu eval`: runs methods × tasks × lengths; scores, judges and tabulates saved replies."""

from agenticlu.cli.eval import saved
from agenticlu.cli.eval.run import command

__all__ = ["command", "saved"]
