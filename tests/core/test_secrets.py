"""Keys are found by their looks wherever they stand, and ordinary text is left alone."""

from __future__ import annotations

import base64
import json
import random
import re
import string
import time
from pathlib import Path

import pytest

from agenticlu.core.secrets import (
    BLANK,
    is_secret_name,
    keys_in,
    public_address,
    public_variable,
    redact,
    redact_text,
)
from agenticlu.engines import check_base_url

ROOT = Path(__file__).resolve().parents[2]
ANY = string.ascii_letters + string.digits
UPPER = string.ascii_uppercase + string.digits
KINDS = {"x": "0123456789abcdef", "A": UPPER, "a": ANY, "_": f"{ANY}-_"}


def made(shape: str, seed: int = 0) -> str:
    """A key of a shape: '{a36}' is 36 letters and digits. None stands here as it would be written,
    for those who look for keys in files."""
    draw = random.Random(f"{shape}{seed}")

    def fill(found: re.Match[str]) -> str:
        kind, length = found[1], int(found[2])
        text = [draw.choice(KINDS[kind]) for _ in range(length)]
        text[length // 2] = draw.choice(string.digits)
        text[-1] = draw.choice("0123456789")
        return "".join(text)

    return re.sub(r"\{([xAa_])(\d+)\}", fill, shape)


def token(*parts: object) -> str:
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode() for part in parts]
    return ".".join(part.rstrip("=") for part in encoded)


SHAPES = {
    "OpenAI": "sk-{a48}", "OpenAI project": "sk-proj-{_120}", "OpenAI service": "sk-svcacct-{_60}",
    "Anthropic": "sk-ant-api03-{_93}AA", "OpenRouter": "sk-or-v1-{x64}", "DeepSeek": "sk-{x32}",
    "Hugging Face": "hf_{a34}", "Replicate": "r8_{a37}", "Groq": "gsk_{a52}", "xAI": "xai-{a80}",
    "NVIDIA": "nvapi-{_64}", "Perplexity": "pplx-{a48}", "Fireworks": "fw_{a24}",
    "Pinecone": "pcsk_{_70}", "LangSmith": "lsv2_pt_{x32}_{x10}", "Together": "tgp_v1_{_43}",
    "GitHub": "ghp_{a36}", "GitHub app": "ghs_{a36}", "GitHub fine": "github_pat_{a22}_{a59}",
    "GitLab": "glpat-{_20}", "GitLab runner": "glrt-{_20}", "npm": "npm_{a36}",
    "PyPI": "pypi-AgEIcHlwaS5vcmc{_60}", "Docker": "dckr_pat_{_27}", "AWS": "AKIA{A16}",
    "AWS session": "ASIA{A16}", "Google": "AIza{_35}", "Google OAuth": "ya29.{_60}",
    "Google client": "GOCSPX-{_28}", "DigitalOcean": "dop_v1_{x64}", "Vault": "hvs.{_28}",
    "Tailscale": "tskey-auth-{a12}-{a22}", "Databricks": "dapi{x32}", "Slack": "xoxb-{a12}-{a24}",
    "Slack app": "xapp-1-{A11}-{a64}", "Slack hook": "https://hooks.slack.com/services/T{A8}/B{A8}/{a24}",
    "SendGrid": "SG.{_22}.{_43}", "Mailgun": "key-{x32}", "Mailchimp": "{x32}-us12",
    "Twilio": "SK{x32}", "Stripe": "sk_live_{a24}", "Stripe restricted": "rk_test_{a24}",
    "Stripe hook": "whsec_{a32}", "Square": "sq0atp-{_22}", "Shopify": "shpat_{x32}",
    "Atlassian": "ATATT3xFfGF0{_172}", "Linear": "lin_api_{a40}", "Figma": "figd_{_40}",
    "Grafana": "glsa_{a32}_{x8}", "New Relic": "NRAK-{A27}", "Sentry": "sntryu_{x64}",
    "PlanetScale": "pscale_tkn_{_43}", "Supabase": "sbp_{x40}", "Discord": "M{_23}.{_6}.{_27}",
    "Telegram": "123456789:AA{_33}", "Notion": "ntn_{a46}", "Doppler": "dp.pt.{a43}",
    "Terraform": "{a14}.atlasv1.{_67}", "Postman": "PMAK-{x24}-{x34}",
}  # fmt: skip
PLACES = (
    "401: incorrect key provided: {}.", "{}",
    '{{"error": "no {} here"}}', "key={}&x", "({})", "'{}'",
    "curl -H 'Authorization: Bearer {}' http://h", "a\n{}\nb", "OPENAI_API_KEY={}", "`{}`,", "<{}>",
)  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_keys_are_recognised_wherever_they_stand(name: str) -> None:
    for seed, place in enumerate(PLACES):
        key = made(SHAPES[name], seed)
        shown = redact_text(place.format(key))
        assert key not in shown
        assert BLANK in shown
        tail = key[-12:]
        assert tail not in shown, "not a part of it either"


def test_signed_tokens_and_private_keys() -> None:
    signed = (
        f"{token({'alg': 'HS256', 'typ': 'JWT'}, {'sub': '12', 'name': 'Ada'})}.{made('{_43}')}"
    )
    assert redact_text(f"token {signed} expired") == f"token {BLANK} expired"
    for kind in ("", "RSA ", "EC ", "OPENSSH ", "ENCRYPTED "):
        body = "\n".join(made("{a64}", n) for n in range(5))
        text = f"a\n-----BEGIN {kind}PRIVATE KEY-----\n{body}\n-----END {kind}PRIVATE KEY-----\nb"
        assert redact_text(text) == f"a\n{BLANK}\nb"
        assert body[:20] not in redact_text(text[:-60]), "cut off, too"


@pytest.mark.parametrize(
    "text",
    [
        "password=hunter2hunter2", "api_key: 'abc123def456'", 'secret = "c0rrecthorse"',
        "AccountKey=Zm9vYmFyMTIz;End", '{"client_secret": "a1b2c3d4e5f6a7"}',
        "aws_secret_access_key=wJalrXUtnFEMI/K7MDENG/bPxRf",
        "Authorization: Basic dXNlcjpwYXNzd29yZA==",
        "authorization: bearer abcdefghijklmnop",
        "a bearer abcdefgh12345678", "PASSWD=s3cr3t-enough",
    ],
)  # fmt: skip
def test_values_behind_telling_names(text: str) -> None:
    assert BLANK in redact_text(text)
    assert max(re.split(r"[=:;\s\"'{}]+", text), key=len) not in redact_text(text)


ORDINARY = (
    "The token fell; sk- is a prefix, and http://127.0.0.1:8000/v1 an address.",
    "completion_tokens: 128000, max_total_tokens=100000, tokenizer=llama3-8b, token: 17",
    "task-oriented risk-averse disk-based sk-learn scikit-learn-extra-long-name-here",
    "Qwen/Qwen3-30B-A3B-Instruct-2507-FP8 and meta-llama/Llama-3.1-8B-Instruct at revision main",
    "sha256:9b742769b16a966d78868847b1670a9f613cc3ab661db1c18fd5b1274d9c8c37",
    "550e8400-e29b-41d4-a716-446655440000 2026-11-29T06:49:31Z 192.168.0.1:8000 [::1]:80",
    "the password is not known; a secret: nobody knew it; key = value; Password: required",
    "hf_hub_download, gh_pages, AKIA is a prefix, AIza too, eyJ begins a token; npm_package_name",
    "monkey-puzzle tree, hotkey=ctrl, keyboard: qwerty12? turnkey; keystone",
    "Bearer of bad news; basic understanding of things; bearer cheque",
    "https://host.example/a/b?x=1&page=2#part and ftp://mirror.example/pub/file-1.2.3.tar.gz",
    "skateboarding-championships-of-the-north pk-series rk4-integration-scheme-order-four",
    "me@host.example wrote to you@there.example: see http://a.example/@user/12",
    "The code=... of the country is 44; author=Smith2001 et al.; SK: Slovakia; AC/DC 1979",
    "MDQ6VXNlcjU4MzIzMQ== is base64; so is SGVsbG8sIHdvcmxkISBIZWxsbywgd29ybGQhIEhlbGxv",
    "glances-at-the-glass-and-glues-it; glsl_vertex_shader_precision_medium_float_value",
)  # fmt: skip


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_prose_is_untouched(text: str) -> None:
    assert redact_text(text) == text


def test_nothing_of_our_own_prose_and_code_looks_like_a_secret() -> None:
    files = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    files += [*(ROOT / "src").rglob("*.py"), *(ROOT / "configs").rglob("*.toml")]
    assert len(files) > 150
    # These make keys of their own, or say where a key goes.
    names = ("core/secrets.py", "room/__init__.py", "room/guard.py", "cli/mcp.py", "cli/read.py")
    with_keys = {ROOT / "src" / "agenticlu" / name for name in names}
    found = {}
    for path in files:
        # Addresses with a user or a key are shown as examples.
        lines = [line for line in path.read_text().splitlines() if "://" not in line]
        changed = [line for line in lines if redact_text(line) != line]
        if changed and path not in with_keys:
            found[path.name] = changed
    assert found == {}


@pytest.mark.parametrize(
    "name",
    ["api_key", "key", "token", "hf_token", "password", "client_secret", "Authorization",
     "X-Api-Key", "judge.api_key", "secret_access_key", "credentials"],
)  # fmt: skip
def test_values_under_secret_names_are_blanked_at_any_depth(name: str) -> None:
    given = {"engine": [{name: "plain-looking-value"}]}
    assert redact(given) == {"engine": [{name: BLANK}]}
    assert is_secret_name(name)


@pytest.mark.parametrize(
    ("name", "value"),
    [("api_key_env", "OPENAI_API_KEY"), ("max_tokens", 256), ("tokenizer", "llama"),
     ("piece_tokens", 512), ("keywords", "a b"), ("api_key", None), ("monkey", "howler")],
)  # fmt: skip
def test_harmless_settings_stay(name: str, value: object) -> None:
    assert redact({name: value}) == {name: value}


def test_values_that_json_cannot_hold_become_words() -> None:
    assert redact({"limit": float("inf")}) == {"limit": "inf"}


def test_addresses_in_texts_lose_user_and_key() -> None:
    text = redact_text("GET https://me:pa55@host.example/v1?model=x&api_key=abc123&n=2 failed")
    assert text == f"GET https://host.example/v1?model=x&api_key={BLANK}&n=2 failed"
    signed = "s3://b/k?X-Amz-Credential=AB/cd&X-Amz-Signature=12ab&X-Amz-Date=2026"
    assert redact_text(signed).count(BLANK) == 2


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
        ("https://h/v1?api_key=QK", f"https://h/v1?api_key={BLANK}"),
        ("https://h/openai?api-version=2024-02-15-preview", None),
        ("https://h/v1?QK", f"https://h/v1?{BLANK}"),
        ("https://h/v1?a=QK&model=m", f"https://h/v1?a={BLANK}&model=m"),
        ("https://h/v1?code=Q%4BK", f"https://h/v1?code={BLANK}"),
        ("https://QK@h/v1", "https://h/v1"),
        ("https://me:QK@h:80/v1#QK", "https://h:80/v1"),
        ("https://me:Q/K@h/v1", f"https://me{BLANK}"),
        ("https://[QK", f"https://[QK{BLANK}"),
        ("ftp://me:QK@h/x", "ftp://h/x"),
        ("/data/a@b/c?d", "/data/a@b/c?d"),
    ],
)
def test_addresses_are_shown_without_what_opens_them(address: str, shown: str | None) -> None:
    assert public_address(address) == (shown or address)
    assert "QK" not in public_address(address) or "[" in address
    if not public_address(address).endswith(f"h{BLANK}") and "[" not in address:
        assert public_address(public_address(address)) == public_address(address)


def test_what_is_left_out_is_known_to_whoever_repeats_it() -> None:
    """A server's words are searched for it."""
    assert keys_in("https://me:p%40ss@h/v1?api_key=QK&model=m&bare") == (
        "me", "p%40ss", "p@ss", "QK", "bare",
    )  # fmt: skip
    assert keys_in("http://127.0.0.1:8000/v1") == keys_in("https://[QK") == ()


@pytest.mark.parametrize(
    "given",
    ["me:pa55word@h:80/v1", "http://me:pa55word@h/v1", "http://me:pa55word", "pa55word@h",
     "http://me:pa55word@[h/v1", "gopher://me:pa55word@h", "http://me:1pa55word@h:x/v1",
     "http://h/v1?api_key=(not shown)", "http://h/v1?api_key=%28not%20shown%29"],
)  # fmt: skip
def test_a_wrong_address_is_refused_without_showing_its_password(given: str) -> None:
    from agenticlu.core.errors import AgenticluError

    with pytest.raises(AgenticluError) as caught:
        check_base_url(given)
    assert "pa55word" not in f"{caught.value.message} {caught.value.hint}"


def test_a_key_in_the_place_of_a_variables_name_is_not_shown() -> None:
    for key in (made(shape) for shape in SHAPES.values()):
        assert public_variable(key) == BLANK
    assert public_variable("0123abcd") == public_variable(made("{x32}")) == BLANK
    for name in ("OPENAI_API_KEY", "KEY2", "my_key", "Azure_Key_1", "K8S_GPT4_2024_KEY"):
        assert public_variable(name) == name


def test_long_texts_take_no_time() -> None:
    """Every pattern is linear: a long text of what almost matches is read in moments."""
    units = (
        "sk-", "a-", "eyJ", "eyJaaaaaaaa.", "http://", "?key", "-----BEGIN ", "token = ", "0", "x@",
        "A" * 50 + " ", "bearer ", "bearer " + "a" * 70, "authorization: ", "&a=", "glc_", "M" * 23,
        "hooks.slack.com/services/", "-----BEGIN PRIVATE KEY-----", "a", "a.", "_", "key-key",
    )  # fmt: skip
    began = time.process_time()
    for unit in units:
        redact_text(unit * (200_000 // len(unit)))
    assert time.process_time() - began < 30
