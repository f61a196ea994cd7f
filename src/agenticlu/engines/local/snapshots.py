"""A model's own cache as tensors and a description in JSON, and back.

Classes of transformers are not stored by name for import and nothing is unpickled: the description
is laid over a cache that the model itself has just made, whose classes must be the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

PLAIN = (str, int, float, bool, type(None))
KEPT = (torch.dtype, torch.device)
"""What the cache that is laid under has already."""


def flatten(cache: Any) -> tuple[dict[str, Tensor], str]:
    """Returns the tensors of a cache by name, and the description of the rest.

    Raises:
        ValueError: It holds something that cannot be described.
    """
    tensors: dict[str, Tensor] = {}
    names: dict[int, str] = {}

    def describe(value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            name = names.setdefault(id(value), path)  # one tensor may stand in two places
            tensors[name] = value
            return {"tensor": name}
        if isinstance(value, PLAIN):
            return {"value": value}
        if isinstance(value, KEPT):
            return {"same": str(value)}
        if isinstance(value, list | tuple):
            items = [describe(one, f"{path}.{i}") for i, one in enumerate(value)]
            return {"items": items, "class": _class_of(value)}
        if isinstance(value, dict):
            if not all(isinstance(key, str | int) for key in value):
                raise ValueError(f"{path} has keys of another kind")
            pairs = [[key, describe(one, f"{path}.{key}")] for key, one in value.items()]
            return {"pairs": pairs}
        if not hasattr(value, "__dict__") or callable(value):
            raise ValueError(f"{path} is of the class {_class_of(value)}")
        fields = {key: describe(one, f"{path}.{key}") for key, one in vars(value).items()}
        return {"fields": fields, "class": _class_of(value)}

    return tensors, json.dumps(describe(cache, "cache"))


def lay_over(cache: Any, tensors: Mapping[str, Tensor], description: str) -> Any:
    """Gives a cache of the same model the content that was described.

    Raises:
        ValueError: The description is of another class.
        KeyError: A tensor is missing.
    """

    def build(said: Any, under: Any) -> Any:
        if "tensor" in said:
            found = tensors[said["tensor"]]
            if isinstance(under, Tensor):
                _check_kind(found, under)
                return found.to(under.device)
            return found
        if "value" in said:
            return said["value"]
        if "same" in said:
            if str(under) != said["same"]:
                raise ValueError(f"{said['same']} is stored and {under} is in use")
            return under
        if "pairs" in said:
            old = under if isinstance(under, dict) else {}
            return {key: build(one, old.get(key)) for key, one in said["pairs"]}
        if said["class"] != _class_of(under):
            raise ValueError(f"{said['class']} is stored and {_class_of(under)} is in use")
        if "items" in said:
            old_items = [*under, *[None] * (len(said["items"]) - len(under))]
            built = [build(one, old) for one, old in zip(said["items"], old_items, strict=True)]
            return tuple(built) if isinstance(under, tuple) else built
        if set(said["fields"]) != set(vars(under)):
            raise ValueError(f"{said['class']} has other fields")
        for key, one in said["fields"].items():
            setattr(under, key, build(one, getattr(under, key)))
        return under

    return build(json.loads(description), cache)


def _class_of(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _check_kind(found: Tensor, under: Tensor) -> None:
    """Raises unless two tensors are alike but for how many tokens they hold."""
    alike = found.dtype == under.dtype and found.dim() == under.dim()
    differing = sum(a != b for a, b in zip(found.shape, under.shape, strict=False))
    if not alike or differing > 1:
        raise ValueError(
            f"{found.dtype} {tuple(found.shape)} is stored, where the model has "
            f"{under.dtype} {tuple(under.shape)}"
        )
