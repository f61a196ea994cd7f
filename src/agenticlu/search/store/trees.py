"""The tables of what a search read and grew: documents, questions, trees and their nodes."""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from agenticlu.core.errors import StoreError
from agenticlu.core.records import Document, Node, Piece, Question, Tree
from agenticlu.search.store.file import RunFile, Statement, pack, unpack


class TreeTables(RunFile):
    """Stores documents once, questions in corpus order, and each tree as a header and its nodes."""

    def add_document(self, document: Document, pieces: Sequence[Piece]) -> None:
        """Stores a document once, with its pieces."""
        header = document.model_dump_json(exclude={"text"})
        # A text cut out of UTF-16 may hold lone surrogates, and must come back as it was.
        text = zlib.compress(document.text.encode("utf-8", "surrogatepass"), 6)
        spans = pack([[p.index, p.start, p.end, p.num_tokens, p.page] for p in pieces])
        sql = "INSERT OR IGNORE INTO document VALUES (?, ?, ?, ?)"
        self.write([(sql, (document.id, header, text, spans))])

    def has_document(self, document_id: str) -> bool:
        """Whether the document is stored."""
        return self._one("SELECT 1 FROM document WHERE id = ?", (document_id,)) is not None

    def document(self, document_id: str) -> Document:
        """Returns a stored document."""
        header, text = self._document_columns("header, text", document_id)
        with self.decoding(f"document {document_id}"):
            text = zlib.decompress(text).decode("utf-8", "surrogatepass")
            return Document.model_validate({**json.loads(header), "text": text})

    def pieces(self, document_id: str) -> tuple[Piece, ...]:
        """Returns the pieces a document was split into."""
        (spans,) = self._document_columns("pieces", document_id)
        with self.decoding(f"document {document_id}"):
            return tuple(
                Piece(index=i, start=start, end=end, num_tokens=tokens, page=page)
                for i, start, end, tokens, page in unpack(spans)
            )

    def _document_columns(self, columns: str, document_id: str) -> tuple[Any, ...]:
        row = self._one(f"SELECT {columns} FROM document WHERE id = ?", (document_id,))
        if row is None:
            raise StoreError(f"{self.path} has no document {document_id!r}.")
        return row

    def document_ids(self) -> tuple[str, ...]:
        """Returns the ids of all documents, in the order of their first question."""
        rows = self._all(
            "SELECT d.id FROM document d LEFT JOIN question q ON q.document_id = d.id "
            "GROUP BY d.id ORDER BY MIN(q.position), d.id"
        )
        return tuple(row[0] for row in rows)

    def add_question(self, question: Question, document_id: str, position: int) -> None:
        """Stores a question; the same id must mean the same question."""
        record = question.model_dump_json()
        row = self._one("SELECT document_id, record FROM question WHERE id = ?", (question.id,))
        if row is not None and row != (document_id, record):
            raise StoreError(
                f"Question id {question.id!r} is already used in {self.path} for another question "
                "or document.",
                hint="Give every question its own id, or leave ids out.",
            )
        sql = "INSERT OR IGNORE INTO question VALUES (?, ?, ?, ?)"
        self.write([(sql, (question.id, document_id, position, record))])

    def questions(self) -> tuple[tuple[Question, str], ...]:
        """Returns all questions with their document's id, in corpus order."""
        rows = self._all("SELECT record, document_id FROM question ORDER BY position, id")
        with self.decoding("a question"):
            return tuple((Question.model_validate_json(row[0]), row[1]) for row in rows)

    async def put_nodes(self, tree: Tree, nodes: Iterable[Node]) -> None:
        """Commits finished nodes and the state of their growing tree."""
        # In one transaction: a node without its tree's row would not be found again.
        sql = (
            "INSERT INTO tree VALUES (?, ?, 'growing', ?) ON CONFLICT (id) DO UPDATE SET "
            "record = excluded.record"
        )
        header = (sql, (tree.id, tree.question.id, _render_header(tree)))
        await self.append([header, *_node_statements(tree.id, nodes)])

    async def finish_tree(self, tree: Tree, *, finished: bool = True) -> None:
        """Commits that a tree will grow no further, replacing what was stored of it.

        Args:
            tree: The tree.
            finished: False where it lacks nodes; the search continues with it.
        """
        state = "done" if finished else "growing"
        # Replaced as a whole: nodes that an earlier growth under other settings left must not mix
        # with these.
        await self.append(
            [
                (REPLACE_TREE, (tree.id, tree.question.id, state, _render_header(tree))),
                (DELETE_NODES, (tree.id,)),
                *_node_statements(tree.id, tree.nodes),
            ]
        )

    async def keep_trees(self, ids: Collection[str]) -> None:
        """Drops all other trees, so that their questions count as not begun; no call is lost."""
        kept = (json.dumps(sorted(ids)),)
        others = "NOT IN (SELECT value FROM json_each(?))"
        await self.append(
            [
                (f"DELETE FROM node WHERE tree_id {others}", kept),
                (f"DELETE FROM tree WHERE id {others}", kept),
            ]
        )

    def tree_state(self, tree_id: str) -> str | None:
        """Returns 'growing', 'done', or None when there is no such tree."""
        state: str | None = self._value("SELECT state FROM tree WHERE id = ?", (tree_id,))
        return state

    def read_chosen(self, tree_id: str) -> dict[str, str] | None:
        """Returns what was chosen for a tree; None where there is no such tree."""
        record = self._value("SELECT record FROM tree WHERE id = ?", (tree_id,))
        if record is None:
            return None
        with self.decoding(f"tree {tree_id}"):
            return Tree.model_validate_json(record).chosen

    def trees(
        self, *, only_finished: bool = False, document_id: str | None = None
    ) -> Iterator[Tree]:
        """Yields trees in corpus order, nodes sorted parents first.

        Args:
            only_finished: Leave out those that still grow.
            document_id: Only those of this document.
        """
        rows = self._all(
            "SELECT t.id, t.record FROM tree t JOIN question q ON q.id = t.question_id "
            "WHERE (t.state = 'done' OR NOT ?) AND COALESCE(q.document_id = ?, TRUE) "
            "ORDER BY q.position, q.id, t.id",
            (only_finished, document_id),
        )
        for tree_id, record in rows:
            blobs = self._all("SELECT record FROM node WHERE tree_id = ?", (tree_id,))
            with self.decoding(f"tree {tree_id}"):
                nodes = _sort_nodes(Node.model_validate(unpack(blob)) for (blob,) in blobs)
                tree = Tree.model_validate_json(record).model_copy(update={"nodes": nodes})
            yield tree

    def node_rows(self, tree_id: str) -> list[tuple[Any, ...]]:
        """Returns the rows of a tree's nodes as stored, ordered by key."""
        return self._all("SELECT * FROM node WHERE tree_id = ? ORDER BY id", (tree_id,))

    def tree_rows(self, tree_id: str) -> tuple[tuple[Any, ...], list[tuple[Any, ...]]] | None:
        """Returns a tree's row and its nodes' rows as stored, or None."""
        row = self._one("SELECT * FROM tree WHERE id = ?", (tree_id,))
        return None if row is None else (row, self.node_rows(tree_id))


REPLACE_TREE = "INSERT OR REPLACE INTO tree VALUES (?, ?, ?, ?)"
DELETE_NODES = "DELETE FROM node WHERE tree_id = ?"
REPLACE_NODE = "INSERT OR REPLACE INTO node VALUES (?, ?, ?, ?)"


def _render_header(tree: Tree) -> str:
    return tree.model_copy(update={"nodes": ()}).model_dump_json()


def _node_statements(tree_id: str, nodes: Iterable[Node]) -> Iterator[Statement]:
    for node in nodes:
        record = pack(node.model_dump(mode="json"))
        yield REPLACE_NODE, (node.id, tree_id, node.depth, record)


def _sort_nodes(nodes: Iterable[Node]) -> tuple[Node, ...]:
    """Returns nodes level by level, siblings in sample order."""
    by_parent: dict[str | None, list[Node]] = {}
    for node in sorted(nodes, key=lambda node: node.ordinal):
        by_parent.setdefault(node.parent, []).append(node)
    ordered: list[Node] = []
    level = by_parent.get(None, [])
    while level:
        ordered += level
        level = [child for parent in level for child in by_parent.get(parent.id, ())]
    return tuple(ordered)
