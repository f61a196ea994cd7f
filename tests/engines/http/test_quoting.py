"""Errors that quote the request: the user's words are never taken for the server's."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest

from agenticlu.core.errors import EngineRefusedError
from agenticlu.core.records import Message
from agenticlu.engines.base import Sampling
from agenticlu.engines.http.adaptation import Dialect
from agenticlu.engines.http.openai import OpenAIEngine
from agenticlu.engines.http.quoting import MARK, without_quotes
from agenticlu.engines.http.refusals import MOST_PLAIN

DOCUMENTS = {
    "load": "The driver eased the throttle back, for the rate limit on the new line is strict.",
    "money": "The clerk wrote: the request exceeds what the credit balance of the mill allows.",
    "moderation": "Nobody at Torvale minds the content policy; what is flagged is read twice.",
    "length": "This essay's prompt is too long, the editor said; the context length exceeds it.",
    "roles": "The choir's parts alternate; only user and assistant roles were sung that evening.",
    "fields": "The seed must not be sown; temperature and stop are not supported by the ground.",
    "stream": "The river must be streamed; streaming is required of every boat in the harbour.",
}
LINES = "It was the third year of the war.\nThe mill stood 'empty', and no \"heron\" came.\n"


def repr_of(body: Any) -> str:
    """As vLLM writes what its validators found."""
    found = {
        "type": "value_error",
        "loc": ("body",),
        "msg": "Value error, logit_bias is odd",
        "input": body,
        "ctx": {"error": ValueError("logit_bias is odd")},
    }
    return f"1 validation error: {[found]}"


def whole(body: Any) -> str:
    return f"logit_bias is odd in {json.dumps(body['messages'], ensure_ascii=False)}"


def verbatim(body: Any) -> str:
    return f"logit_bias is odd: {body['messages'][-1]['content']}"


@pytest.mark.parametrize("quote", [repr_of, whole, verbatim])
@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
@pytest.mark.parametrize("wrapped", [True, False])
def test_a_quoted_document_says_nothing_of_the_server(
    serve: Any, document: str, quote: Any, wrapped: bool
) -> None:
    def answer(body: dict[str, Any], number: int) -> Any:
        words = quote(body)
        return 400, {"error": {"message": words}} if wrapped else words

    endpoint = serve(answer)
    engine = OpenAIEngine(endpoint.url, "m")
    asked = (
        Message(role="system", content="Be brief."),
        Message(role="user", content=f"{LINES}{document}\n{LINES}"),
    )
    before = Dialect()

    async def once() -> None:
        try:
            await engine.sample(asked, Sampling(temperature=0.7, max_tokens=9, n=2, seed=3))
        finally:
            await engine.close()

    with pytest.raises(EngineRefusedError, match="logit_bias is odd") as caught:
        asyncio.run(once())
    assert type(caught.value).__name__ == "StatusError", "no other kind of error"
    assert engine.dialect == before, "nothing is changed for it"
    assert len(endpoint.bodies) == 1


@pytest.mark.parametrize(
    "words",
    [
        "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens.",
        "Unsupported parameter: 'temperature' is not supported with this model.",
        "[{'type': 'extra_forbidden', 'loc': ('body', 'seed'), 'msg': 'Extra', 'input': 3}]",
    ],
)
def test_the_servers_own_words_stay(words: str) -> None:
    assert without_quotes(words, ("The mill stood empty. " * 40,)) == words
    assert without_quotes(words, (f"It says: {words} And so on.",)) == words, "all it says"


def test_a_long_quote_costs_no_more_than_reading_it() -> None:
    letters = random.Random(5)
    prompt = "".join(letters.choices("ab ", k=200_000)) + "ab " * 60_000
    for quoted in (prompt[-MOST_PLAIN:], prompt[:MOST_PLAIN], "ab " * 60_000):
        assert without_quotes(f"What is odd here: {quoted}", (prompt,)).endswith(MARK)
