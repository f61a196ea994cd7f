"""Walks over a list of edges, after GraphWalks: nodes at a distance, or parents of a node.

Sampler and wording are ours, so figures cannot be compared with GraphWalks' own.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from agenticlu.evaluation.items import Item
from agenticlu.evaluation.tasks import TaskRequest, vocabulary
from agenticlu.evaluation.tasks.fitting import Fitter
from agenticlu.evaluation.tasks.questions import Asked, fitted_items

OUT_DEGREE = 2
MOST_STEPS = 3


def load(request: TaskRequest) -> Iterator[Item]:
    """Yields `num_items` rows of `graph_walk` or `graph_parents`."""
    ask = _parents if request.task == "graph_parents" else _walk

    def build(rng: Random, num_nodes: int) -> Asked:
        edges = _edges(rng, num_nodes)
        asked, golds, evidence = ask(rng, edges)
        text = "\n".join(_lines(edges))
        return Asked(
            text,
            f"The document lists the edges of a graph. {asked} "
            "End with Final Answer: [a, b, ...], or Final Answer: [] if there is none.",
            f"[{', '.join(golds)}]",
            tuple((text.index(line), text.index(line) + len(line)) for line in _lines(evidence)),
            {"nodes": golds},
        )

    fitter = Fitter[Asked](request, step=4, least=4)
    yield from fitted_items(request, build, fitter, 200, "set_f1")


Edge = tuple[str, str]
Task = tuple[str, list[str], list[Edge]]
"""What is asked, the nodes that answer it, and the edges that show it."""


def _edges(rng: Random, num_nodes: int) -> list[Edge]:
    nodes = vocabulary.distinct(lambda source: f"{source.getrandbits(32):08x}", rng, num_nodes)
    edges = {(node, rng.choice(nodes)) for node in nodes for _ in range(OUT_DEGREE)}
    ordered = sorted((a, b) for a, b in edges if a != b)
    rng.shuffle(ordered)
    return ordered


def _lines(edges: list[Edge]) -> list[str]:
    return [f"{a} -> {b}" for a, b in edges]


def distances(edges: list[Edge], start: str) -> dict[str, int]:
    """Returns the fewest steps from `start` to every node that can be reached."""
    following: dict[str, list[str]] = {}
    for a, b in edges:
        following.setdefault(a, []).append(b)
    found, border = {start: 0}, [start]
    while border:
        border = [b for a in border for b in following.get(a, ()) if _note(found, b, found[a] + 1)]
    return found


def _note(found: dict[str, int], node: str, distance: int) -> bool:
    if node in found:
        return False
    found[node] = distance
    return True


def _parents(rng: Random, edges: list[Edge]) -> Task:
    node = rng.choice(edges)[rng.randrange(2)]
    evidence = [(a, b) for a, b in edges if b == node]
    asked = f"Which nodes have an edge that leads straight to {node}?"
    return asked, sorted({a for a, _ in evidence}), evidence


def _walk(rng: Random, edges: list[Edge]) -> Task:
    node = rng.choice(edges)[rng.randrange(2)]
    steps = rng.randint(1, MOST_STEPS)
    found = distances(edges, node)
    golds = sorted(name for name, far in found.items() if far == steps)
    asked = f"Which nodes are exactly {steps} steps from {node}, going along the edges?"
    return asked, golds, [(a, b) for a, b in edges if found.get(a, steps) < steps]
