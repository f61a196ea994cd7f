"""Errors of servers, in the words that they really use, told apart and read."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from agenticlu.core.errors import (
    ContentRefusedError,
    DocumentTooLongError,
    EngineBusyError,
)
from agenticlu.engines.http.refusals import (
    MOST_CHARACTERS,
    StatusError,
    explain,
    find_refusal,
    read_refusal,
    speaks_of_key,
)


def explained(status: int, body: Any) -> Any:
    content = body if isinstance(body, str) else json.dumps(body)
    refusal = read_refusal(content.encode(), status)
    return explain("m", refusal, refusal.text, None)


def openai(message: str, **more: Any) -> Any:
    return {"error": {"message": message, **more}}


TOO_LONG: dict[str, tuple[int, Any, int | None]] = {
    "OpenAI": (
        400,
        openai(
            "This model's maximum context length is 8192 tokens. However, your messages resulted in"
            " 9000 tokens. Please reduce the length of the messages.",
            code="context_length_exceeded",
        ),
        8192,
    ),
    "OpenAI, responses": (
        400,
        openai("Your input exceeds the context window of this model. Please adjust your input."),
        None,
    ),
    "OpenAI, GPT-5": (
        400,
        openai(
            "Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in"
            " 300000 tokens. Please reduce the length of the messages."
        ),
        272000,
    ),
    "OpenAI, characters": (
        400,
        openai(
            "Invalid 'messages[0].content': string too long. Expected a string with maximum length"
            " 10485760, but got a string with length 11000000 instead.",
            code="string_above_max_length",
        ),
        None,
    ),
    "Azure": (
        400,
        openai(
            "This model's maximum context length is 4097 tokens, however you requested 5000 tokens"
            " (5000 in your prompt; 0 for the completion). Please reduce your prompt."
        ),
        4097,
    ),
    "vLLM": (
        400,
        {
            "object": "error",
            "message": "This model's maximum context length is 4096 tokens. However, you requested"
            " 5000 tokens in the messages, Please reduce the length of the messages.",
            "type": "BadRequestError",
            "code": 400,
        },
        4096,
    ),
    "vLLM, decoder": (
        400,
        openai(
            "The decoder prompt (length 5000) is longer than the maximum model length of 4096. Make"
            " sure that `max_model_len` is no smaller than the number of text tokens."
        ),
        4096,
    ),
    "vLLM, new": (
        400,
        openai(
            "You passed 5000 input tokens and requested 100 output tokens. However, the model's"
            " context length is only 4096 tokens, resulting in a maximum input length of 3996."
        ),
        4096,
    ),
    "SGLang": (
        400,
        {
            "message": "The input (5000 tokens) is longer than the model's context length (4096"
            " tokens)."
        },
        4096,
    ),
    "SGLang, allowed": (
        400,
        openai("Input length (5000 tokens) exceeds the maximum allowed length (4090 tokens)."),
        4090,
    ),
    "TGI": (
        422,
        {
            "error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096."
            " Given: 5000 `inputs` tokens and 100 `max_new_tokens`",
            "error_type": "validation",
        },
        4096,
    ),
    "TGI, inputs": (
        422,
        {"error": "Input validation error: `inputs` must have less than 4095 tokens. Given: 5000"},
        4095,
    ),
    "llama.cpp, old": (
        400,
        openai("the request exceeds the available context size, try increasing it"),
        None,
    ),
    "llama.cpp": (
        400,
        openai(
            "the request exceeds the available context size, try increasing it",
            type="exceed_context_size_error",
            n_prompt_tokens=5000,
            n_ctx=4096,
        ),
        4096,
    ),
    "llama.cpp, words": (
        400,
        openai("request (5000 tokens) exceeds the available context size (4096 tokens)"),
        4096,
    ),
    "llama.cpp, 500": (500, openai("context size exceeded"), None),
    "llama-cpp-python": (
        500,
        openai("Requested tokens (3000) exceed context window of 2048", type="server_error"),
        2048,
    ),
    "Ollama": (400, openai("the input length exceeds the context length"), None),
    "LM Studio": (
        400,
        {
            "error": "The number of tokens to keep from the initial prompt is greater than the"
            " context length. Try to load the model with a larger context length."
        },
        None,
    ),
    "LM Studio, window": (
        400,
        {
            "error": "Trying to keep the first 5000 tokens when context the overflows. However, the"
            " model is loaded with context length of only 4096 tokens, which is not enough."
        },
        4096,
    ),
    "Gemini": (
        400,
        [
            openai(
                "The input token count (1200000) exceeds the maximum number of tokens allowed"
                " (1048576).",
                code=400,
                status="INVALID_ARGUMENT",
            )
        ],
        1048576,
    ),
    "Vertex": (
        400,
        openai(
            "Unable to submit request because the input token count is 1200000 but model only"
            " supports up to 1048576. Reduce the input token count and try again."
        ),
        1048576,
    ),
    "Anthropic": (
        400,
        {
            "type": "error",
            "error": {
                "type": "invalid_request_error",
                "message": "prompt is too long: 210000 tokens > 200000 maximum",
            },
        },
        200000,
    ),
    "Bedrock": (400, {"message": "Input is too long for requested model."}, None),
    "Bedrock, tokens": (
        400,
        {
            "message": "Too many input tokens. Max input tokens: 8192, request input token count:"
            " 9000"
        },
        8192,
    ),
    "Databricks": (
        400,
        {"error_code": "BAD_REQUEST", "message": "prompt token count (5000) cannot exceed 4096."},
        4096,
    ),
    "xAI": (
        400,
        {
            "error": "This model's maximum prompt length is 131072 but the request contains 140000"
            " tokens."
        },
        131072,
    ),
    "DashScope": (
        400,
        openai("Range of input length should be [1, 30720]", code="invalid_parameter_error"),
        30720,
    ),
    "Together": (
        422,
        openai(
            "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 8193. Given:"
            " 9000 `inputs` tokens and 1 `max_new_tokens`",
            type="invalid_request_error",
        ),
        8193,
    ),
    "Fireworks": (
        400,
        openai("The prompt is too long: 140000, model maximum context length: 131071"),
        131071,
    ),
    "Groq": (
        400,
        openai(
            "Please reduce the length of the messages or completion.",
            code="context_length_exceeded",
        ),
        None,
    ),
    "Cerebras": (
        400,
        openai(
            "Please reduce the length of the messages or completion. Current length is 9000 while"
            " limit is 8192",
            code="context_length_exceeded",
        ),
        8192,
    ),
    "Mistral": (
        400,
        {
            "object": "error",
            "message": "Prompt contains 40000 tokens and 0 draft tokens, too large for model with"
            " 32768 maximum context length",
            "code": "3051",
        },
        32768,
    ),
    "Cohere": (
        400,
        {
            "message": "too many tokens: total number of tokens in the prompt cannot exceed 4081 -"
            " received 5000. Try using a shorter prompt."
        },
        4081,
    ),
    "OpenRouter": (
        400,
        openai(
            "This endpoint's maximum context length is 32768 tokens. However, you requested about"
            " 40000 tokens (39900 of text input, 100 in the output).",
            code=400,
        ),
        32768,
    ),
    "OpenRouter, its provider's": (
        400,
        openai(
            "Provider returned error",
            code=400,
            metadata={
                "raw": json.dumps(openai("prompt is too long: 210000 tokens > 200000 maximum")),
                "provider_name": "Anthropic",
            },
        ),
        200000,
    ),
    "LiteLLM": (
        400,
        openai(
            "litellm.ContextWindowExceededError: litellm.BadRequestError: OpenAIException - "
            + json.dumps(openai("This model's maximum context length is 8192 tokens. However, x")),
            code="400",
        ),
        8192,
    ),
    "Moonshot": (
        400,
        openai("Your request exceeded model token limit: 131072 (requested: 140000)"),
        131072,
    ),
    "MiniMax": (400, openai("invalid params, context window exceeds limit (2013)"), None),
    "Zhipu": (400, openai("Prompt 超长", code="1261"), None),
    "Copilot": (400, openai("prompt token count of 140000 exceeds the limit of 128000"), 128000),
    "watsonx": (
        400,
        openai("the number of input tokens 5000 cannot exceed the total tokens limit 4096"),
        4096,
    ),
    "TabbyAPI": (422, {"detail": "Prompt length 5000 is greater than max_seq_len 4096"}, 4096),
    "TensorRT-LLM": (
        400,
        openai(
            "The sum of prompt length (5000), query length (0) and max_tokens (100) should not"
            " exceed max_num_tokens (4096)"
        ),
        4096,
    ),
    "nginx": (413, "<html><head><title>413 Request Entity Too Large</title></head></html>", None),
}


@pytest.mark.parametrize("server", TOO_LONG)
def test_a_prompt_too_long_is_known_in_every_servers_words(server: str) -> None:
    status, body, window = TOO_LONG[server]
    error = explained(status, body)
    assert isinstance(error, DocumentTooLongError), error
    assert error.window_tokens == window


REPLY_TOO_LONG: dict[str, tuple[int, Any, int | None]] = {
    "OpenAI": (
        400,
        openai(
            "max_tokens is too large: 100000. This model supports at most 16384 completion tokens,"
            " whereas you provided 100000."
        ),
        16384,
    ),
    "OpenAI, sum": (
        400,
        openai(
            "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens"
            " (1000 in the messages, 8000 in the completion)."
        ),
        7192,
    ),
    "vLLM": (
        400,
        openai(
            "'max_tokens' or 'max_completion_tokens' is too large: 5000. This model's maximum"
            " context length is 4096 tokens and your request has 100 input tokens (5000 > 4096 -"
            " 100)."
        ),
        3996,
    ),
    "vLLM, old": (400, openai("max_tokens=5000 cannot be greater than max_model_len=4096."), 4096),
    "TGI": (
        422,
        {
            "error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096."
            " Given: 100 `inputs` tokens and 5000 `max_new_tokens`"
        },
        3996,
    ),
    "Anthropic": (
        400,
        openai(
            "max_tokens: 100000 > 8192, which is the maximum allowed number of output tokens for"
            " this model"
        ),
        8192,
    ),
    "Anthropic, sum": (
        400,
        openai(
            "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000, decrease"
            " input length or `max_tokens` and try again"
        ),
        10000,
    ),
    "Groq": (
        400,
        openai(
            "`max_tokens` must be less than or equal to `8192`, the maximum value for `max_tokens`"
            " is less than the `context_window` for this model"
        ),
        8192,
    ),
    "DeepSeek": (
        400,
        openai("Invalid max_tokens value, the valid range of max_tokens is [1, 8192]"),
        8192,
    ),
    "DashScope": (400, openai("Range of max_tokens should be [1, 8192]"), 8192),
    "Vertex": (
        400,
        openai(
            "Unable to submit request because it has a maxOutputTokens value of 100000 but the"
            " supported range is from 1 (inclusive) to 8193 (exclusive)."
        ),
        8192,
    ),
    "Bedrock": (
        400,
        openai(
            "The maximum tokens you requested exceeds the model limit of 4096. Try again with a"
            " maximum tokens value that is lower than 4096."
        ),
        4096,
    ),
    "OpenRouter": (
        400,
        openai(
            "This endpoint's maximum context length is 32768 tokens. However, you requested about"
            " 40000 tokens (2768 of text input, 37232 in the output)."
        ),
        30000,
    ),
    "SGLang": (
        400,
        {
            "message": "Requested token count exceeds the model's maximum context length of 4096"
            " tokens. You requested a total of 5000 tokens: 100 tokens from the input messages and"
            " 4900 tokens for the completion."
        },
        3996,
    ),
}


@pytest.mark.parametrize("server", REPLY_TOO_LONG)
def test_a_reply_too_long_is_not_taken_for_a_prompt_too_long(server: str) -> None:
    status, body, room = REPLY_TOO_LONG[server]
    error = explained(status, body)
    assert isinstance(error, StatusError), error
    assert error.refusal.limits.reply_tokens == room


@pytest.mark.parametrize(
    ("status", "body", "pause_s"),
    [
        (429, openai("Rate limit reached: tokens per min. Limit: 30000, Requested: 500"), None),
        (429, {"message": "Too many tokens, please wait before trying again."}, None),
        (413, openai("Request too large: tokens per minute (TPM)", code="rate_limit_exceeded"), 0),
        (403, openai("Rate limit exceeded: 20 requests per minute"), None),
        (529, {"type": "error", "error": {"type": "overloaded_error", "message": "x"}}, None),
        (
            429,
            [
                openai(
                    "You exceeded your current quota.",
                    status="RESOURCE_EXHAUSTED",
                    details=[{"@type": "RetryInfo", "retryDelay": "43s"}],
                )
            ],
            43.0,
        ),
        (429, openai("You exceeded your current quota", code="insufficient_quota"), math.inf),
        (402, openai("Insufficient Balance"), math.inf),
        (400, openai("Your credit balance is too low to access the API."), math.inf),
    ],
)
def test_load_and_money_are_no_matter_of_length(status: int, body: Any, pause_s: Any) -> None:
    error = explained(status, body)
    assert isinstance(error, EngineBusyError)
    assert not error.is_fault
    assert (error.retry_after_s or None) == (pause_s or None)


def test_one_request_above_the_limit_per_minute_is_not_waited_for() -> None:
    text = "Request too large for m on tokens per minute (TPM): Limit 6000, Requested 7,000."
    error = explained(413, openai(text, code="rate_limit_exceeded"))
    assert isinstance(error, StatusError)
    assert "shorter prompts" in (error.hint or "")


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (403, openai("Your input was flagged", metadata={"reasons": ["violence"]}), "violence"),
        (
            400,
            openai(
                "The response was filtered due to the prompt triggering Azure OpenAI's policy.",
                code="content_filter",
                innererror={"code": "ResponsibleAIPolicyViolation"},
            ),
            "was filtered",
        ),
        (400, openai("Content Exists Risk"), "Exists Risk"),
        (400, openai("Input data may contain x.", code="data_inspection_failed"), "may contain"),
        (400, openai("Your prompt was flagged as violating our usage policy"), "flagged"),
        (403, openai("Request blocked by guardrail"), "guardrail"),
        (451, openai("This prompt violates our terms"), "terms"),
    ],
)
def test_moderation_is_told_in_its_own_words(status: int, body: Any, words: str) -> None:
    refusal = read_refusal(json.dumps(body).encode(), status)
    assert not speaks_of_key(refusal)
    error = explained(status, body)
    assert isinstance(error, ContentRefusedError)
    assert words in error.message


@pytest.mark.parametrize(
    ("status", "text", "about_key"),
    [
        (401, "", True),
        (403, "Invalid API key", True),
        (403, "Authentication required", True),
        (403, "", False),
        (403, "You are not allowed to request logprobs from this model.", False),
        (403, "Country, region, or territory not supported", False),
        (400, "Invalid API key", False),
    ],
)
def test_a_key_is_missed_only_where_the_server_says_so(
    status: int, text: str, about_key: bool
) -> None:
    assert speaks_of_key(read_refusal(text.encode(), status)) == about_key


@pytest.mark.parametrize(
    ("body", "words", "param"),
    [
        ({"error": "bad stop"}, "bad stop", ""),
        ({"error": ["bad", "stop"]}, "bad; stop", ""),
        ({"error": {"error": {"message": "bad stop", "param": "stop"}}}, "bad stop", "stop"),
        ({"detail": "bad stop"}, "bad stop", ""),
        ({"errors": [{"code": 7003, "message": "bad stop"}], "success": False}, "bad stop", ""),
        ({"fault": {"faultstring": "bad stop"}}, "bad stop", ""),
        ({"title": "Bad Request", "detail": "bad stop"}, "bad stop; Bad Request", ""),
        (
            {"message": {"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs"}]}},
            "seed: Extra inputs",
            "",
        ),
        ([{"error": {"message": "bad stop"}}], "bad stop", ""),
        ("<html><head><title>400 Bad</title></head><body>x</body></html>", "400 Bad", ""),
        ("bad stop", "bad stop", ""),
        ({"weird": 1}, '{"weird": 1}', ""),
        ("", "", ""),
    ],
)
def test_words_are_found_wherever_a_server_puts_them(body: Any, words: str, param: str) -> None:
    content = body if isinstance(body, str) else json.dumps(body)
    refusal = read_refusal(content.encode(), 400)
    assert (refusal.text, refusal.param) == (words, param)
    if words:
        assert words in explain("m", refusal, refusal.text, None).message


def test_of_a_long_error_only_the_words_are_kept() -> None:
    echoed = {"loc": ["body", "seed"], "msg": "Extra inputs", "input": "The mill. " * 50_000}
    assert read_refusal(json.dumps({"detail": [echoed]}).encode(), 422).text == "seed: Extra inputs"
    for content in ("1" * 100_000, "{" * 100_000, "<html>" + "<p>x" * 100_000):
        refusal = read_refusal(content.encode(), 400)
        assert 0 < len(refusal.text) <= MOST_CHARACTERS
    assert read_refusal(json.dumps({"error": "x" * 100_000}).encode(), 400).text


@pytest.mark.parametrize(
    ("data", "status"),
    [
        ({"error": {"message": "x", "code": 502}}, 502),
        ({"error": {"message": "x", "code": "429"}}, 429),
        ({"error": {"message": "x", "type": "rate_limit_error"}}, 429),
        ({"error": {"message": "x", "type": "invalid_request_error"}}, 400),
        ({"error": {"message": "prompt is too long: 9 tokens > 5 maximum"}}, 400),
        ({"error": {"message": "flagged by moderation"}}, 400),
        ({"error": "x"}, 500),
        ({"object": "error", "message": "x", "code": 400}, 400),
        ({"choices": [{"error": {"message": "x", "code": 502}, "message": {}}]}, 502),
        ({"detail": "x"}, 500),
        ({"error": None, "choices": [{"message": {}}]}, None),
        ({"choices": [{"message": {}}], "error": {}}, None),
        ({"data": []}, None),
        ({"data": [{"id": "m"}], "detail": "one page of two"}, None),
        ({"models": [{"name": "m"}], "error": "one is broken"}, None),
        ({"data": [], "error": "broken"}, 500),
        (["x"], None),
    ],
)
def test_errors_under_status_200(data: Any, status: int | None) -> None:
    found = find_refusal(data)
    assert (None if found is None else found.status) == status
