"""Walks over a list of edges, after GraphWalks: nodes at a distance, or parents of a node.

Sampler and wording are ours, so figures cannot be compared with GraphWalks' own.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from agenticlu.evaluation.items import Item
from agenticlu.evaluation.tasks import DoesNotFitError, TaskRequest, vocabulary
from agenticlu.evaluation.tasks.fitting import largest_fit
from agenticlu.records import Document, Question, content_id, content_seed

OUT_DEGREE = 2
MOST_STEPS = 3


def load(request: TaskRequest) -> Iterator[Item]:
    """Yields `num_items` rows of `graph_walk` or `graph_parents`."""
    count = request.tokenizer.count

    def size(num_nodes: int) -> int:
        return count("\n".join(_lines(_edges(Random(0), num_nodes))))

    num_nodes = largest_fit(lambda n: size(n) <= request.length, 4)
    if num_nodes < 4:
        raise DoesNotFitError(request.task, request.length)
    for index in range(request.num_items):
        yield _item(request, index, num_nodes)


Edge = tuple[str, str]


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


def _item(request: TaskRequest, index: int, num_nodes: int) -> Item:
    seed = content_seed(request.task, str(request.seed), str(request.length), str(index))
    rng = Random(seed)
    edges = _edges(rng, num_nodes)
    while request.tokenizer.count("\n".join(_lines(edges))) > request.length:
        edges.pop()
    node = rng.choice(edges)[rng.randrange(2)]
    if request.task == "graph_parents":
        golds = sorted({a for a, b in edges if b == node})
        asked = f"Which nodes have an edge that leads straight to {node}?"
        gold_edges = [(a, b) for a, b in edges if b == node]
    else:
        steps = rng.randint(1, MOST_STEPS)
        found = distances(edges, node)
        golds = sorted(name for name, far in found.items() if far == steps)
        asked = f"Which nodes are exactly {steps} steps from {node}, going along the edges?"
        gold_edges = [(a, b) for a, b in edges if found.get(a, steps) < steps]
    text = "\n".join(_lines(edges))
    spans = tuple(
        (start, start + len(line)) for line in _lines(gold_edges) for start in [text.index(line)]
    )
    return Item(
        task=request.task,
        length=request.length,
        document=Document.of(text, f"{request.task}:{request.seed}:{index}"),
        question=Question(
            id=content_id(request.task, str(seed)),
            text=f"The document lists the edges of a graph. {asked} "
            "End with Final Answer: [a, b, ...], or Final Answer: [] if there is none.",
            answers=(f"[{', '.join(golds)}]",),
        ),
        rule="set_f1",
        gold_spans=spans or None,
        max_tokens=200,
        reference={"nodes": golds},
    )
