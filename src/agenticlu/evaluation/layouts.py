"""What an engine makes of the tasks' own prompt layouts, found out when the first one is sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from agenticlu.core.errors import UsageError
from agenticlu.engines.base import Engine
from agenticlu.evaluation.config import EvaluationConfig, in_form
from agenticlu.evaluation.framing import measure_framing
from agenticlu.evaluation.items import Item
from agenticlu.evaluation.methods import Settings, find_method
from agenticlu.evaluation.runner import Job


class Layouts:
    """Puts layouts into a form that an engine takes, and measures what a request adds to them.

    Args:
        config: Of the run.
        engine: What answers.
        settings: Of the methods.
        report: Told once what a reader of the figures should know.
    """

    def __init__(
        self,
        config: EvaluationConfig,
        engine: Engine,
        settings: Settings,
        report: Callable[[str], None],
    ) -> None:
        self._used = any(find_method(method).layout for method in config.methods)
        self._wanted = config.chat
        self._engine = engine
        self._settings = settings
        self._report = report
        self._is_told = False
        self._framing: dict[bool, int] = {}

    async def sendable(self, items: Sequence[Item]) -> list[Item]:
        """Returns the items, as chat where the engine continues no plain text.

        Raises:
            UsageError: It does not, and nothing but plain text was wanted.
        """
        plain = any(item.prompt is not None and not item.prompt.chat for item in items)
        if not self._used or not plain or (await self._engine.capabilities()).completes:
            return list(items)
        told = f"{self._engine.name} continues no plain text"
        if self._wanted is False:
            raise UsageError(f"{told}, and --no-chat wants nothing else.", hint="Try --chat.")
        if not self._is_told:
            self._is_told = True
            self._report(
                f"{told}: what HELMET sends as plain text is sent, scored and named as chat."
            )
        return [in_form(item, chat=True) for item in items]

    async def framed(self, jobs: Sequence[Job]) -> Settings:
        """Returns the settings with what a prompt of these jobs costs beside its text."""
        sent = [job.item.prompt for job in jobs if find_method(job.method).layout]
        bounded = self._settings.overlong == "cut-end" or self._settings.context_tokens is not None
        if not sent or sent[0] is None or not bounded:
            return self._settings
        chat = sent[0].chat
        if chat not in self._framing:
            self._framing[chat] = await measure_framing(
                self._engine, self._settings.tokenizer, chat=chat
            )
        return replace(self._settings, framing_tokens=self._framing[chat])
