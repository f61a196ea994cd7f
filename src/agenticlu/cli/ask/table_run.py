"""Asks every question of every document, into a table that may be killed and gone on with."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agenticlu.cli.ask.run import AskSetup, Interrupt
from agenticlu.cli.ask.table import AnswerTable, Key, as_failure, as_row, cell_id, record_of
from agenticlu.core.errors import (
    AgenticluError,
    DocumentError,
    IncompleteRunError,
    StoreError,
    UsageError,
)
from agenticlu.core.printing import echo, echo_json
from agenticlu.core.records import Usage
from agenticlu.documents.described import describe_sources

if TYPE_CHECKING:
    from agenticlu.cli.ask.settings import AskSettings
    from agenticlu.core.progress import Progress
    from agenticlu.core.records import Document
    from agenticlu.documents.sources import Source, Sources
    from agenticlu.engines.base import Engine

CONDITIONS = (
    *("model", "profile", "rounds", "temperature", "spans", "shortlist", "max_total_tokens"),
    *("thinking", "window"),
)
"""Settings that answers depend on: a table is filled under one set of them."""


@dataclass(eq=False)
class TableRun:
    """The documents and questions of a table."""

    settings: AskSettings
    files: Sequence[str]
    rows: Sequence[Mapping[str, Any]]
    out: Path
    sources: Sources = field(init=False)
    setup: AskSetup = field(init=False)
    usage: Usage = field(default_factory=Usage)
    num_answered: int = 0
    num_kept: int = 0
    num_failed: int = 0
    num_unread: int = 0
    """Documents that cannot be read; their cells are among the failed."""
    num_unsupported: int = 0

    def prepare(self) -> None:
        """Finds the documents; reads none, and touches no model.

        Raises:
            UsageError: A row of the questions is wrong.
            DocumentError: There is no such file, or nothing to read.
        """
        from agenticlu.documents.sources import find_sources

        wrong = [str(row["error"]) for row in self.rows if "error" in row]
        if wrong:
            where = self.settings.questions_file
            raise UsageError(f"The questions of {where!r} cannot be used: {'; '.join(wrong[:3])}.")
        self.rows = list({self._key("", row): row for row in self.rows}.values())
        self.sources = find_sources(self.files, self.settings.limits)
        # A table inside the folder that it is about is no document of it.
        ours = [self.out, record_of(self.out), Path(self.settings.questions_file or self.out)]
        known = {path.resolve() for path in ours}
        found = [one for one in self.sources.found if Path(one.address).resolve() not in known]
        if not found:
            raise DocumentError(f"{', '.join(self.files)}: there is nothing to read.")
        self.sources.found = found
        if not self.settings.quiet:
            for line in describe_sources(self.sources, ", ".join(self.files)):
                echo(line, err=True)
        self.setup = AskSetup(self.settings)

    def _key(self, name: str, row: Mapping[str, Any]) -> Key:
        options = tuple(row.get("options", ())) or self.settings.option
        return name, row["question"].strip(), options

    @property
    def conditions(self) -> dict[str, Any]:
        """What the answers depend on besides documents and questions."""
        given = {name: getattr(self.settings, name) for name in CONDITIONS}
        return given | {
            "model": self.settings.model or ("served" if self.settings.base_url else "bundled"),
            "profile": self.setup.profile.label,
            "piece_tokens": self.setup.piece_tokens,
        }

    def estimate(self) -> None:
        """Prints what the table would cost at most; contacts no server and loads no model."""
        from agenticlu.documents import split
        from agenticlu.documents.loading import load_source

        num_requests = unfit = 0
        total = Usage()
        for source in self.sources.found:
            try:
                document = load_source(source.address, self.settings.limits)
            except AgenticluError as error:
                echo(f"{source.name}: {error.advice}", err=True)
                continue
            pieces = split(document, self.setup.tokenizer, self.setup.piece_tokens)
            for row in self.rows:
                question = self.setup.make_question(document, row)
                cost = self.setup.estimate(document, pieces, question)
                num_requests += cost.requests
                unfit += cost.fits is False
                total = total + Usage(
                    prompt_tokens=cost.prompt_tokens,
                    cached_tokens=cost.cached_tokens,
                    completion_tokens=cost.completion_tokens,
                )
        cells = len(self.sources.found) * len(self.rows)
        price = self.settings.prices().price(total)
        if self.settings.as_json:
            echo_json({"cells": cells, "do_not_fit": unfit, **total.as_dict(), "price": price})
            return
        echo(
            f"{cells:,} cells; at most: {num_requests:,} requests; "
            f"{total.prompt_tokens - total.cached_tokens:,} prompt tokens computed and "
            f"{total.cached_tokens:,} cached where the engine keeps a cache, {total.sampled}"
            + (f"; price {price:,.4g}" if price is not None else "")
            + (f"; {unfit:,} cells do not fit the window" if unfit else "")
        )

    async def run(self) -> None:
        """Asks what is not answered yet.

        Raises:
            IncompleteRunError: Cells failed.
            StoreError: The table cannot be written.
        """
        from agenticlu.core.progress import Progress

        names = [source.name for source in self.sources.found]
        keys = [self._key("", row)[1:] for row in self.rows]
        with AnswerTable(self.out, self.conditions) as table:
            progress = Progress("cells", len(names) * len(keys), quiet=self.settings.quiet)
            engine = self.setup.choice.load(progress.say)
            try:
                with progress, Interrupt(progress.say, "finishing the cells begun") as interrupt:
                    await self._fill(table, engine, progress, interrupt)
            finally:
                await engine.close()  # first: a full disk leaves no connection open
                table.finish(names, keys)
        self._tell(len(names) * len(keys))
        if interrupt.once:
            raise KeyboardInterrupt
        if self.num_failed:
            failed = f"{self.num_failed} of {len(names) * len(keys)} cells failed; they say why."
            hint = "Run the same command again to ask those alone."
            if self.num_unread:
                number = self.num_unread
                which = "1 document" if number == 1 else f"{number:,} documents"
                failed += f" {which} cannot be read."
                hint = f"Mend or remove what cannot be read; {hint[0].lower()}{hint[1:]}"
            raise IncompleteRunError(failed, hint=hint)

    async def _fill(
        self, table: AnswerTable, engine: Engine, progress: Progress, interrupt: Interrupt
    ) -> None:
        """Fills the table: the cells of one document after another, several documents at once."""
        waiting = iter(self.sources.found)

        async def work() -> None:
            for source in waiting:
                if interrupt.once:
                    return
                await self._fill_line(source, table, engine, progress, interrupt)

        workers = [asyncio.create_task(work()) for _ in range(self.settings.concurrency)]
        try:
            await asyncio.gather(*workers)
        finally:  # a full disk, or an interrupt, ends them all
            for worker in workers:
                worker.cancel()

    async def _fill_line(
        self,
        source: Source,
        table: AnswerTable,
        engine: Engine,
        progress: Progress,
        interrupt: Interrupt,
    ) -> None:
        from agenticlu.documents import split
        from agenticlu.documents.loading import load_source

        document: Document | None = None
        try:
            document = await asyncio.to_thread(load_source, source.address, self.settings.limits)
        except AgenticluError as error:
            unread = error.advice
            self.num_unread += 1
            progress.say(f"Not read: {source.name}: {unread}")
        pieces = None
        for row in self.rows:
            key = self._key(source.name, row)
            cell = cell_id(document.id if document else "", key)
            if table.is_done(key, cell):
                self.num_kept += 1
                progress.advance()
                continue
            if interrupt.once:
                return
            place = (source.name, source.address, cell, self.conditions)
            if document is None:
                table.add(as_failure(*place, key, unread))
                self.num_failed += 1
                progress.advance()
                continue
            try:
                pieces = pieces or split(document, self.setup.tokenizer, self.setup.piece_tokens)
                question = self.setup.make_question(document, row)
                # An interrupt does not cut a cell short: what is kept is as of an unbroken run.
                answer = await self.setup.ask(document, pieces, question, engine)
            except StoreError:
                raise
            except AgenticluError as error:
                table.add(as_failure(*place, key, error.message))
                self.num_failed += 1
                progress.say(f"{source.name}, {key[1]!r}: {error.message}")
                progress.advance()
            else:
                table.add(as_row(*place, answer))
                self.usage = self.usage + answer.usage
                self.num_answered += 1
                self.num_unsupported += not answer.supported
                progress.advance(note=source.name)

    def _tell(self, num_cells: int) -> None:
        price = self.settings.prices().price(self.usage)
        if self.settings.as_json:
            echo_json(
                {
                    "out": str(self.out),
                    "cells": num_cells,
                    "answered": self.num_answered,
                    "unsupported": self.num_unsupported,
                    "failed": self.num_failed,
                    "answered_before": self.num_kept,
                    "usage": self.usage.as_dict(),
                    "price": price,
                }
            )
            return
        echo(
            f"{self.out}: {num_cells:,} cells; {self.num_answered:,} answered now, of them "
            f"{self.num_unsupported:,} not supported by their documents; {self.num_kept:,} "
            f"before; {self.num_failed:,} failed"
        )
        echo(
            f"tokens: {self.usage.prompt_tokens - self.usage.cached_tokens:,} computed, "
            f"{self.usage.cached_tokens:,} cached, {self.usage.sampled}"
            + (f"; price {price:,.4g}" if price is not None else "")
        )
