"""Finds keys and passwords in texts, addresses and settings, and leaves them out.

For what is stored or shown: results, reports, messages, configurations. A text is blanked where it
looks like a secret: an issuer's prefix with as many characters as its keys have, a signed token, a
private key, a value behind a name such as `api_key`, the user's part and the keys of an address.
Ordinary words, digests, ids and names of models are left alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

BLANK = "(not shown)"
PLAIN_PARAMETERS = frozenset({"api-version", "deployment", "format", "model", "region", "version"})
"""Parameters of a server's address whose values are no secret; of all others they may be."""
_DIGIT = r"(?=[\w\-]{0,60}\d)"
"""Of keys that letters, digits and dashes make up: words with dashes have no digit."""
_ISSUED = (
    # Models: OpenAI and those who copied its prefix, Anthropic, OpenRouter; Hugging Face; others.
    _DIGIT + r"sk-[\w\-]{16,}",
    r"(?:hf|r8|gsk|fw|csk)_[A-Za-z0-9]{20,}",
    r"api_org_[A-Za-z0-9]{30,}",
    _DIGIT + r"(?:nvapi|pplx|xai|csk|tgp_v1|pcsk)[_\-][\w\-]{20,}",
    r"lsv2_(?:pt|sk)_[0-9a-f]{32}_[0-9a-f]{10}",
    # Code: GitHub, GitLab, npm, PyPI, Docker, Terraform, Postman, Artifactory.
    r"gh[oprsu]_[A-Za-z0-9]{20,}",
    r"github_pat_\w{22,}",
    _DIGIT + r"gl(?:pat|agent|cbt|dt|ft|imt|oas|ptt|rt|soat)-[\w\-]{20,}",
    r"npm_[A-Za-z0-9]{36}",
    r"pypi-AgE[\w\-]{40,}",
    r"dckr_pat_[\w\-]{20,}",
    r"[A-Za-z0-9]{14}\.atlasv1\.[\w\-]{60,}",
    r"PMAK-[0-9a-f]{24}-[0-9a-f]{34}",
    r"AKC[A-Za-z0-9]{60,}",
    # Clouds: Amazon, Google, Azure, DigitalOcean, Heroku, Fly, Tailscale, Vault, Databricks.
    r"A(?:KIA|SIA|BIA|CCA|GPA|IDA|IPA|NPA|NVA|ROA)[0-9A-Z]{16}",
    r"AIza[\w\-]{35}",
    r"ya29\.[\w\-]{30,}",
    r"GOCSPX-[\w\-]{28}",
    r"do[opr]_v1_[0-9a-f]{64}",
    r"HRKU-[\w\-]{36,}",
    r"fm[12]_[A-Za-z0-9+/=]{60,}",
    r"tskey-[a-z]{3,8}-[A-Za-z0-9]{8,}-[A-Za-z0-9]{16,}",
    r"hv[bs]\.[\w\-]{24,}",
    r"dapi[0-9a-f]{32}",
    # Talk and mail: Slack, Discord, Telegram, SendGrid, Mailgun, Mailchimp, Twilio.
    r"xox[abeoprs]-(?=[\w\-]{0,60}\d)[\w\-]{10,}",
    r"xapp-\d-[\w\-]{20,}",
    r"hooks\.slack\.com/(?:services|workflows)/[\w/]{20,}",
    r"discord(?:app)?\.com/api/webhooks/\d{15,}/[\w\-]{30,}",
    r"[MNO][\w\-]{23,27}\.[\w\-]{6}\.[\w\-]{27,}",
    r"\d{8,10}:AA[\w\-]{33}",
    r"SG\.[\w\-]{16,32}\.[\w\-]{16,64}",
    r"key-[0-9a-f]{32}",
    r"[0-9a-f]{32}-us\d{1,2}",
    r"(?:AC|SK)[0-9a-f]{32}",
    # Money and shops: Stripe, Square, Shopify, Braintree.
    r"[prs]k_(?:live|test)_[A-Za-z0-9]{10,}",
    r"whsec_[A-Za-z0-9+/=]{24,}",
    r"sq0[a-z]{3}-[\w\-]{22,}",
    r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}",
    r"access_token\$(?:production|sandbox)\$[0-9a-z]{16}\$[0-9a-f]{32}",
    # Work: Atlassian, Linear, Notion, Figma, Grafana, New Relic, Sentry, Doppler, databases.
    r"ATATT3[\w\-=]{60,}",
    r"lin_(?:api|oauth)_[A-Za-z0-9]{32,}",
    r"ntn_[A-Za-z0-9]{40,}",
    r"figd_[\w\-]{36,}",
    r"gl(?:sa|c)_[A-Za-z0-9+/=_]{32,}",
    r"NR(?:AK|II|JS)-[A-Za-z0-9]{20,}",
    r"sntry[su]_[A-Za-z0-9+/=_]{40,}",
    r"dp\.(?:pt|st|ct|sa|scim|audit)\.[\w\-.]{40,}",
    r"sbp_[0-9a-f]{40}",
    r"pscale_(?:oauth|pw|tkn)_[\w\-.]{32,}",
    r"AGE-SECRET-KEY-1[0-9A-Z]{58}",
    # Signed tokens (JWT): two JSON objects in base64, and a signature.
    r"eyJ[\w\-]{8,}\.eyJ[\w\-]{8,}\.[\w\-]*",
)
_SECRET = re.compile(rf"(?<![\w\-])(?:{'|'.join(_ISSUED)})")
_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----[^\-]*(?:-----END [A-Z0-9 ]{0,60}-----)?"
)
_CREDENTIAL = re.compile(
    r"((?i:\bauthorization[\"']?\s{0,4}[:=]\s{0,4}[\"']?(?:bearer|basic)\s{1,4}))[^\s\"',;()]{4,}"
    r"|((?i:\b(?:bearer|basic))\s{1,4})(?=[A-Za-z]{0,80}(?:\d|[a-z][A-Z]|[._~+/=\-]))"
    r"[A-Za-z0-9._~+/\-]{12,}={0,2}"
)
"""What follows the name of a scheme: in a header anything, elsewhere what is no word."""
_WORDS = (
    r"api[_\-]?key|access[_\-]?key|account[_\-]?key|auth[_\-]?token|access[_\-]?token|secret|passw(?:or)?d"
    r"|passwd|pwd|private[_\-]?key|client[_\-]?secret|authorization|credentials?|token"
)
_ASSIGNED = re.compile(
    rf"((?<![A-Za-z])(?:{_WORDS})[\"']?\s{{0,4}}[:=]\s{{0,4}}[\"']?)"
    r"(?=[^\s\"',;&]{0,200}\d)(?=[^\s\"',;&]{0,200}[A-Za-z])[^\s\"',;&()]{8,}",
    re.IGNORECASE,
)
"""A name and its value: at least eight characters with letters and digits, as no word has."""
_USER = re.compile(r"(?<=://)[^/\s@?#]{1,400}@")
_PARAMETER = re.compile(
    r"([?&;#](?:[\w.\-]{0,40}(?:key|token|secret|passw(?:or)?d|passwd|pwd|credentials?|signature)"
    r"|auth|code|sig|X-Amz-Credential)=)(?!\(not shown\))[^&#;\s\"'>)]+",
    re.IGNORECASE,
)
_NAME = re.compile(
    r"(?:^|[_\-.])(?:api[_\-]?key|access[_\-]?key|key|token|secret|password|passwd|credentials?"
    r"|authorization|auth|cookie|bearer)$",
    re.IGNORECASE,
)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,60}")


def redact_text(text: str) -> str:
    """Blanks what looks like a secret, and the user's part and the keys of addresses.

    >>> redact_text("https://me:pw@host/v1?api_key=abc&n=2 failed, as did token 12")
    'https://host/v1?api_key=(not shown)&n=2 failed, as did token 12'
    """
    text = _USER.sub("", text)
    text = _PARAMETER.sub(rf"\g<1>{BLANK}", text)
    text = _PRIVATE_KEY.sub(BLANK, text)
    text = _SECRET.sub(BLANK, text)
    text = _CREDENTIAL.sub(lambda found: f"{found[1] or found[2]}{BLANK}", text)
    return _ASSIGNED.sub(rf"\g<1>{BLANK}", text)


def redact(value: Any) -> Any:
    """Returns a configuration with secrets blanked, by the names of keys and the looks of values.

    The *name* of an environment variable (`api_key_env`) is not a secret and stays.

    >>> redact({"api_key": "abc", "api_key_env": "OPENAI_API_KEY", "piece_tokens": 512})
    {'api_key': '(not shown)', 'api_key_env': 'OPENAI_API_KEY', 'piece_tokens': 512}
    """
    if isinstance(value, Mapping):
        return {
            str(key): BLANK
            if is_secret_name(str(key)) and isinstance(item, (str, list, tuple, dict)) and item
            else redact(item)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [redact(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no such number
    return redact_text(value) if isinstance(value, str) else value


def is_secret_name(name: str) -> bool:
    """Whether a setting of this name holds a secret.

    >>> [is_secret_name(one) for one in ("api_key", "X-Api-Key", "api_key_env", "max_tokens")]
    [True, True, False, False]
    """
    return _NAME.search(name) is not None


def public_address(address: str) -> str:
    """Returns a server's address without its user's part and the values of its parameters.

    It tells servers apart in messages and results; it may not be enough to reach one. A folder,
    which has no scheme, stays as it is.

    >>> public_address("https://me:pw@host/v1?code=x&api-version=2")
    'https://host/v1?code=(not shown)&api-version=2'
    """
    if "://" not in address:
        return address
    address = _USER.sub("", address)
    try:
        parts = urlsplit(address)
        _ = parts.port
    except ValueError:  # such as half an IPv6 address, or a password where the port should be
        return re.match(r"\w*://[^:/?#]*", address)[0] + BLANK  # type: ignore[index]
    parameters = [_public_parameter(one) for one in parts.query.split("&") if one]
    return redact_text(urlunsplit(parts._replace(query="&".join(parameters), fragment="")))


def _public_parameter(parameter: str) -> str:
    name, equals, value = parameter.partition("=")
    if not equals:
        return BLANK  # the parameter may be a key by itself
    return parameter if name.lower() in PLAIN_PARAMETERS or not value else f"{name}={BLANK}"


def keys_in(address: str) -> tuple[str, ...]:
    """Returns what `public_address` leaves out of a server's address, as it was and decoded.

    >>> keys_in("https://host/v1?code=x%2Fy&api-version=2")
    ('x%2Fy', 'x/y')
    """
    try:
        parts = urlsplit(address)
    except ValueError:
        return ()
    found = [parts.username or "", parts.password or ""]
    for parameter in parts.query.split("&"):
        name, equals, value = parameter.partition("=")
        if not equals or name.lower() not in PLAIN_PARAMETERS:
            found.append(value if equals else name)
    return tuple(dict.fromkeys(form for one in found if one for form in (one, unquote(one))))


def public_variable(name: str) -> str:
    """Returns the name of a variable for messages; a key given in its place is not shown.

    >>> public_variable("OPENAI_API_KEY"), public_variable("sk-abc123")
    ('OPENAI_API_KEY', '(not shown)')
    """
    is_name = _VARIABLE.fullmatch(name) and redact_text(name) == name
    # Keys mix digits with letters; in a name they are few.
    is_name = is_name and (name.isupper() or sum(map(str.isdigit, name)) < 4)
    return name if is_name and sum(map(str.isdigit, name)) < 8 else BLANK
