"""The settings of a run: bound to its calls, kept with it, and read back.

Calls are found again under the settings that they were made under; see `bind`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agenticlu.core.errors import StoreError
from agenticlu.core.settings import change
from agenticlu.dialogue.steps import Profile
from agenticlu.search import BOUND_SETTINGS, OPEN_SETTINGS, SearchConfig
from agenticlu.search.store import Store


def bind(store: Store, config: SearchConfig, profile: Profile, **settings: Any) -> SearchConfig:
    """Writes the settings of a run, or refuses those that its calls were not made under.

    The keys of calls follow from these settings: under others, none of them would be found again
    and everything would be paid for twice.

    Returns:
        The settings; what they leave open is as the run was begun with.

    Raises:
        StoreError: The folder holds a run with another value of a bound setting.
    """
    wanted: dict[str, Any] = {name: getattr(config, name) for name in BOUND_SETTINGS}
    wanted["profile"] = profile.label
    wanted.update(settings)
    bound = store.get("bound") or {}
    begun = store.get("config") or {}
    left_open = [name for name in OPEN_SETTINGS if getattr(config, name) == "auto"]
    config = change(config, {name: begun[name] for name in left_open if name in begun})
    for name in wanted.keys() & bound.keys():
        refuse_other(store, name, bound[name], wanted[name])
    store.put(
        bound={**bound, **wanted},
        config=config.model_dump(mode="json"),
        profile=profile.model_dump(mode="json"),
    )
    return config


def refuse_other(store: Store, name: str, own: Any, wanted: Any) -> None:
    """Raises StoreError where a bound setting is not the run's own."""
    if own != wanted:
        raise StoreError(
            f"{store.folder} was started with {name} = {own!r}, not {wanted!r}: its recorded calls "
            "could not be reused.",
            hint="Use the same value, or give --out (and --seal) another folder."
            if store.call_counts()["done"]
            else "No call in it was answered yet: remove the folder, or use the same value.",
        )


def load_run(run: str | Path) -> tuple[SearchConfig, Profile]:
    """Returns the settings and the profile that a run was made with."""
    with Store(run, writable=False) as store:
        return read_settings(store)


def read_settings(store: Store) -> tuple[SearchConfig, Profile]:
    """Returns the settings and the profile that a store's run was made with.

    Raises:
        StoreError: The search never began, or its settings cannot be read.
    """
    config, profile = store.get("config"), store.get("profile")
    if config is None or profile is None:
        raise StoreError(
            f"{store.folder} holds no search: none was started in it.",
            hint=f"Start it: agenticlu generate CORPUS --out {store.folder}",
        )
    try:
        return SearchConfig.model_validate(config), Profile.model_validate(profile)
    except ValueError as error:
        raise StoreError(f"The settings in {store.path} cannot be read: {error}") from error
