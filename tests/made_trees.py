"""Trees made by hand, and runs that hold them, for tests of what is built from trees."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

from agenticlu.core.records import Document, Node, Question, Tree, Turn, Verdict
from agenticlu.data.tree_view import TreeView
from agenticlu.dialogue.steps import load_profile
from agenticlu.documents import split
from agenticlu.documents.tokens import ApproximateTokenizer
from agenticlu.search import SearchConfig
from agenticlu.search.store import Store

TEXT = " ".join(f"Sentence number {i} speaks of thing {i}." for i in range(30))
DOCUMENT = Document.of(TEXT, source="test")
PIECES = split(DOCUMENT, ApproximateTokenizer(), 40)
QUESTION = Question(id="q", text="Which town?", answers=("Brellin",))
KINDS = ("clarify", "point", "sub_answer", "answer", "check")


def node(
    name: str,
    score: float | None,
    *,
    parent: str = "root",
    depth: int = 1,
    ordinal: int = 0,
    kept: tuple[int, ...] = (1,),
    answer: str | None = None,
    check: str = "yes",
    **changes: object,
) -> Node:
    said = answer if answer is not None else ("Brellin" if score == 1.0 else f"wrong {name}")
    texts = (
        f"What of {name}?",
        f"<para {kept[0]}>" if kept else "-",
        f"It is {name}.",
        said,
        check,
    )
    turns = tuple(
        Turn(kind=kind, wording="w", request=f"ask {kind}", reply=text, finish_reason="stop")
        for kind, text in zip(KINDS, texts, strict=True)
    )
    verdicts = () if score is None else (Verdict(judge="exact", value=float(score == 1.0)),)
    fields = {
        "id": name,
        "parent": parent,
        "depth": depth,
        "ordinal": ordinal,
        "turns": turns,
        "kept": kept,
        "answer": said,
        "verdicts": verdicts,
        "score": score,
    }
    return Node.model_validate({**fields, **changes})


def tree_view(*nodes: Node, question: Question = QUESTION) -> TreeView:
    root = Node(id="root", parent=None, depth=0, ordinal=0, turns=(), score=0.0)
    tree = Tree(
        id="t",
        document_id=DOCUMENT.id,
        question=question,
        system="s",
        profile="default@1",
        nodes=(root, *nodes),
    )
    return TreeView(tree, DOCUMENT, PIECES, load_profile(), "scripted")


def tree(*nodes: Node, question: Question = QUESTION, document: Document = DOCUMENT) -> Tree:
    root = Node(id=f"root-{question.id}", parent=None, depth=0, ordinal=0, turns=(), score=0.0)
    grown = [
        n.model_copy(
            update={
                "id": f"{n.id}-{question.id}",
                "parent": root.id if n.parent == "root" else f"{n.parent}-{question.id}",
            }
        )
        for n in nodes
    ]
    return Tree(
        id=f"t-{question.id}",
        document_id=document.id,
        question=question,
        system="s",
        profile="default@1",
        nodes=(root, *grown),
    )


def asked(number: int, **changes: object) -> Question:
    """A question of its own, with the answer that right nodes give."""
    return QUESTION.model_copy(update={"id": f"q{number}", "text": f"Town {number}?", **changes})


def story(number: int) -> Document:
    """A document that shares no run of words with the others."""
    text = " ".join(f"In chapter {i} hero{number} found stone{number * 97 + i}." for i in range(20))
    return Document.of(text, source="made")


def make_run(
    folder: Path,
    trees: Iterable[tuple[Document, Tree]],
    *,
    growing: Iterable[tuple[Document, Tree]] = (),
    unstarted: Iterable[tuple[Document, Question]] = (),
    engine: str = "scripted",
) -> Path:
    """Writes a run that holds finished trees, growing ones, and questions without one."""
    with Store(folder) as store:
        store.put(
            bound={"engine": engine, "seed": 0, "tokenizer": "words"},
            config=SearchConfig().model_dump(mode="json"),
            profile=load_profile().model_dump(mode="json"),
            judges=["exact"],
        )
        position = 0
        for state, entries in (("done", trees), ("growing", growing), ("none", unstarted)):
            for document, made in entries:
                store.add_document(document, split(document, ApproximateTokenizer(), 40))
                question = made if isinstance(made, Question) else made.question
                store.add_question(question, document.id, position)
                position += 1
                if state == "done":
                    asyncio.run(store.finish_tree(made))
                elif state == "growing":
                    asyncio.run(store.put_nodes(made, made.nodes))
    return folder


def load_trees(run: str | Path) -> list[Tree]:
    """Returns the trees of a run, in corpus order."""
    with Store(run, writable=False) as store:
        return list(store.trees())
