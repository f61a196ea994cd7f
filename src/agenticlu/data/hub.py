"""Uploads a data set to the hub: checked before anything is computed, in one commit, resumable.

Only the files that `summary.json` names are uploaded. The hub keeps every large file it has
received, so an interrupted push resumes with the others.
"""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agenticlu.core.errors import (
    AgenticluError,
    IncompleteRunError,
    UsageError,
    did_you_mean,
    missing_dependency,
)
from agenticlu.data.dataset import CARD, CROISSANT, NAMES, SUMMARY, load_record

IDENTIFIERS = frozenset(
    """
    afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m
    bigscience-bloom-rail-1.0 bigscience-openrail-m bsd bsd-2-clause bsd-3-clause
    bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0
    cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0
    cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0
    epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 fair-noncommercial-research-license gemma gfdl gpl gpl-2.0
    gpl-3.0 h-research intel-research isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1
    llama3.2 llama3.3 llama4 lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openmdw-1.0
    openrail openrail++ osl-3.0 pddl postgresql unknown unlicense wtfpl zlib
    """.split()  # noqa: SIM905
)
"""https://huggingface.co/docs/hub/repositories-licenses, without `other`."""
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.+_-]{0,94}[a-z0-9+])?")
_LINK = re.compile(r"https?://[^\s\"'<>]+")


@dataclass(frozen=True)
class Licence:
    """The licence of a data set, as the hub names licences; asked for, never assumed."""

    identifier: str
    """One of the hub's, or `other`."""
    name: str | None = None
    """Name of a licence `other`; None for one of the hub's."""
    link: str | None = None
    """URL of the text of a licence `other`, if there is one."""

    def __str__(self) -> str:
        return self.link or self.name or self.identifier

    def as_dict(self) -> dict[str, str | None]:
        """Returns JSON data."""
        return asdict(self)


def parse_licence(identifier: str | None, name: str | None, link: str | None) -> Licence | None:
    """Returns the licence that the options name, or None if they name none.

    >>> parse_licence("MIT", None, None)
    Licence(identifier='mit', name=None, link=None)

    Raises:
        UsageError: The hub does not know the licence, or `other` has no name.
    """
    if identifier is None:
        if name is not None or link is not None:
            raise UsageError(
                "--license-name and --license-link need --license other.",
                hint="Add --license other",
            )
        return None
    known = identifier.strip().lower()
    if known in IDENTIFIERS:
        if name is not None or link is not None:
            raise UsageError(
                f"--license-name and --license-link are for --license other, not {known!r}.",
                hint="Omit them, or give --license other.",
            )
        return Licence(known)
    if known != "other":
        raise UsageError(
            f"Unknown licence {identifier!r}. Allowed: mit, apache-2.0, cc-by-4.0, cc-by-nc-4.0, "
            f"odc-by, {len(IDENTIFIERS) - 5} more (huggingface.co/docs/hub/repositories-licenses) "
            "and other.",
            hint=did_you_mean(known, IDENTIFIERS)
            or "For any other: --license other --license-name NAME --license-link URL",
        )
    if name is None or not _NAME.fullmatch(name):
        raise UsageError(
            f"--license other needs a --license-name of a-z, 0-9 and . + - _, not {name!r}.",
            hint="For example --license other --license-name my-licence-1.0 --license-link URL",
        )
    if link is not None and not _LINK.fullmatch(link):
        raise UsageError(
            f"--license-link {link!r} is not a URL.", hint="Give https://..., or omit it."
        )
    return Licence("other", name, link)


_EMPTY = frozenset({".gitattributes", CARD})
"""Files that a new repository may hold."""


def check_push(hub_id: str, licence: Licence | None) -> None:
    """Checks name, licence, token and repository, so that a push fails before a build is computed.

    Raises:
        UsageError: The name is invalid, there is no licence, the token must not write there, or
            the repository holds something else.
        AgenticluError: The hub is unreachable.
    """
    hub = _client()
    _check_name(hub_id)
    if licence is None:
        raise UsageError(
            "A data set on the hub needs a licence; none is assumed.",
            hint="Build with --license, for example --license mit; that costs no model calls.",
        )
    token = hub.get_token()
    if not token:
        raise UsageError(
            "No token for the hub was found.", hint="Set HF_TOKEN, or run: hf auth login"
        )
    api = hub.HfApi(token=token)
    with _reaching(api.endpoint):
        identity = api.whoami()
    _check_token(identity, hub_id)
    with _reaching(api.endpoint):
        present = _files_on_hub(api, hub_id)
    if present - _EMPTY and not {SUMMARY, CROISSANT} <= present:
        raise UsageError(
            f"{hub_id} exists and is not a data set of agenticlu; it holds "
            f"{', '.join(sorted(present)[:3])}.",
            hint="Give a new name.",
        )


def push(folder: Path, hub_id: str, *, private: bool) -> str:
    """Uploads a data set and returns its URL.

    Raises:
        UsageError: The directory is not a data set.
        StoreError: One of its files was changed.
        IncompleteRunError: The upload was interrupted; what has arrived is not sent again.
    """
    hub = _client()
    names = [*load_record(folder)["files"], SUMMARY]
    api = hub.HfApi()
    with _uploading(folder, hub_id, private):
        api.create_repo(hub_id, repo_type="dataset", private=private, exist_ok=True)
        stale = (_files_on_hub(api, hub_id) & NAMES) - set(names)
        operations: list[Any] = [
            hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(folder / name))
            for name in names
        ]
        operations += [hub.CommitOperationDelete(path_in_repo=name) for name in sorted(stale)]
        api.create_commit(
            hub_id, operations, commit_message="Data set of agenticlu", repo_type="dataset"
        )
    return f"{api.endpoint}/datasets/{hub_id}"


def _client() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise missing_dependency("huggingface-hub", "data") from error
    return huggingface_hub


def _check_name(hub_id: str) -> None:
    from huggingface_hub.errors import HFValidationError

    validate: Any = importlib.import_module("huggingface_hub.utils").validate_repo_id
    owner, slash, name = hub_id.partition("/")
    try:
        for part in (hub_id, owner, name):
            validate(part)
    except HFValidationError:
        slash = ""
    if not (owner and slash and name):
        raise UsageError(
            f"Invalid repository name {hub_id!r}. Give OWNER/NAME, each of at most 96 letters, "
            "digits, - _ and ., without - or . at either end, -- or .. inside, or .git at the end.",
            hint="For example yourname/long-traces",
        )


def _check_token(identity: Mapping[str, Any], hub_id: str) -> None:
    """Checks that a token may write under the owner's name."""
    owner = hub_id.partition("/")[0]
    orgs = {org.get("name"): org.get("roleInOrg") for org in identity.get("orgs") or ()}
    if owner != identity.get("name") and owner not in orgs:
        owners = ", ".join(str(name) for name in (identity.get("name"), *orgs) if name)
        raise UsageError(
            f"The token belongs to {owners}, not to {owner!r}.",
            hint=f"For example {identity.get('name')}/{hub_id.partition('/')[2]}",
        )
    token = (identity.get("auth") or {}).get("accessToken") or {}
    role = token.get("role")
    may_write = role != "read" and orgs.get(owner) != "read"
    if role == "fineGrained" and isinstance(token.get("fineGrained"), Mapping):
        # Such a token lists its permissions for the owner or for the repository.
        may_write = any(
            "repo.write" in (scope.get("permissions") or ())
            and (scope.get("entity") or {}).get("name") in (owner, hub_id)
            for scope in token["fineGrained"].get("scoped") or ()
        )
    if not may_write:
        raise UsageError(
            f"The token can read but not write to {owner!r}.",
            hint="Create one with the role `write` at huggingface.co/settings/tokens",
        )


def _files_on_hub(api: Any, hub_id: str) -> frozenset[str]:
    """Returns the files of a repository, none if it does not exist."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        found = api.repo_info(hub_id, repo_type="dataset")
    except RepositoryNotFoundError:
        return frozenset()
    return frozenset(file.rfilename for file in found.siblings or ())


def _failures() -> tuple[type[Exception], ...]:
    """Returns what the client raises when the hub is unreachable or refuses."""
    from huggingface_hub.errors import HfHubHTTPError

    # Its first base is that of the HTTP library underneath, which differs between versions.
    base = HfHubHTTPError.__mro__[1]
    assert issubclass(base, Exception)
    return HfHubHTTPError, base, OSError


@contextlib.contextmanager
def _reaching(endpoint: str) -> Iterator[None]:
    try:
        yield
    except _failures() as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise UsageError(
                f"The hub at {endpoint} rejected the token ({status}).",
                hint="Check HF_TOKEN, which overrides a login: hf auth whoami",
            ) from error
        raise AgenticluError(
            f"Cannot reach the hub at {endpoint}: {_first_line(error)}.",
            hint="Check the connection, HF_ENDPOINT and HF_HUB_OFFLINE; or build without "
            "--push-to-hub and push later: agenticlu dataset push",
        ) from error


@contextlib.contextmanager
def _uploading(folder: Path, hub_id: str, private: bool) -> Iterator[None]:
    # The client reports a broken transfer as RuntimeError, a malformed reply as ValueError.
    failures: tuple[type[Exception], ...] = (*_failures(), RuntimeError, ValueError)
    try:
        yield
    except failures as error:
        public = "" if private else " --public"
        raise IncompleteRunError(
            f"The upload to {hub_id} failed: {_first_line(error)}. The data set is complete in "
            f"{folder}.",
            hint=f"Continue without rebuilding: agenticlu dataset push {folder} {hub_id}{public}",
        ) from error


def _first_line(error: BaseException) -> str:
    """Returns one line: what the hub says, or else the deepest cause."""
    while error.__cause__ is not None and not getattr(error, "server_message", None):
        error = error.__cause__
    said = str(getattr(error, "server_message", None) or error)
    lines = said.strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}".rstrip(".") if lines else type(error).__name__
