"""An answer in words: what a terminal and an assistant are shown."""

from __future__ import annotations

from agenticlu.core.records import Usage
from agenticlu.dialogue.answer import Answer
from agenticlu.dialogue.claims import number_claims
from agenticlu.documents.citations import Citation


def render_answer(answer: Answer) -> str:
    """Returns the answer, then its numbered sources, notes, and what it cost."""
    stated = answer.statement or "(no answer)"
    if answer.status != "not_in_document":  # of what is not there, nothing could be quoted
        stated = number_claims(answer.claims, answer.statement) or stated
    if answer.options and len(answer.answer) == 1:
        stated = f"{answer.answer}. {stated}"
    lines = [stated, ""]
    if answer.citations:
        lines.append("Sources")
        for number, citation in enumerate(answer.citations, start=1):
            lines += _render_citation(number, citation)
    else:
        lines.append("No sources.")
    if answer.notes:
        lines += ["", *(f"Note: {note}" for note in answer.notes)]
    usage = answer.usage
    cost = "" if answer.cost is None else f"price {answer.cost:,.4g}; "
    about = f"{answer.rounds} round{'s' if answer.rounds != 1 else ''}"
    lines += [
        "",
        f"{about}, {usage.requests} requests{_render_setup(answer.setup)}; tokens: "
        f"{usage.prompt_tokens - usage.cached_tokens:,} computed, {usage.cached_tokens:,} cached, "
        f"{usage.sampled}; {answer.seconds:.1f} s; {cost}{answer.engine}",
    ]
    return "\n".join(lines)


def _render_setup(setup: Usage) -> str:
    return f" ({setup.requests} of setup)" if setup.requests else ""


def _render_citation(number: int, citation: Citation) -> list[str]:
    at = citation.file or citation
    place = f"paragraph {citation.piece}, characters {at.start}-{at.end}"
    if citation.page is not None:
        place = f"{citation.page_name or f'page {citation.page}'}, {place}"
    if citation.file is not None:
        place = f"{citation.file.name}, {place}"
    if citation.quote is None:
        return [f"[{number}] {place}"]
    quote = " ".join(citation.quote.split())
    shown = f"“{quote}”" if citation.verified else f"closest sentence (not quoted): {quote}"
    return [f"[{number}] {place}", f"    {shown}"]
