from __future__ import annotations

import asyncio
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from made_older import make_older
from made_trees import load_trees

from agenticlu.core.errors import StoreError
from agenticlu.core.records import Document, Node, Piece, Question, Tree, Usage
from agenticlu.search.store import CallId, Fold, Store
from agenticlu.search.store import file as run_file
from agenticlu.search.store.file import pack

CALL = CallId(key="k1", phase="answer", document_id="d", question_id="q", node_id="n")


def run(coroutine):
    return asyncio.run(coroutine)


def question(name: str = "q") -> Question:
    return Question(id=name, text="Who?", answers=("Ada",))


def tree(name: str = "t", nodes: tuple[Node, ...] = ()) -> Tree:
    return Tree(
        id=name, document_id="d", question=question(), system="s", profile="p@1", nodes=nodes
    )


def test_a_finished_call_is_found_with_its_reply_and_cost_after_reopening(tmp_path: Path):
    async def work(store: Store) -> None:
        await store.intend(CALL)
        assert store.find_call("k1") is None, "an intent alone is no result"
        await store.finish("k1", [["hello", "stop", [1, 2]]], Usage(requests=1, prompt_tokens=9))

    with Store(tmp_path) as store:
        run(work(store))
    with Store(tmp_path, writable=False) as store:
        found = store.find_call("k1")
    assert found is not None
    assert (found.state, found.reply) == ("done", [["hello", "stop", [1, 2]]])
    assert found.usage == Usage(requests=1, prompt_tokens=9)


def test_a_repeated_intent_is_counted_and_never_undoes_a_result(tmp_path: Path):
    async def work(store: Store) -> None:
        await store.intend(CALL)
        await store.intend(CALL)
        assert store.call_counts() == {"done": 0, "failed": 0, "intent": 1, "repeated": 1}
        await store.finish("k1", "first", Usage())
        await store.intend(CALL)
        await store.finish("k1", "second", Usage())

    with Store(tmp_path) as store:
        run(work(store))
        found = store.find_call("k1")
        assert found is not None
        assert found.reply == "first"


def test_a_failed_call_keeps_its_reason(tmp_path: Path):
    async def work(store: Store) -> None:
        await store.intend(CALL)
        await store.fail("k1", "refused")

    with Store(tmp_path) as store:
        run(work(store))
        found = store.find_call("k1")
        assert found is not None
        assert (found.state, found.failure) == ("failed", "refused")
        assert store.failures() == {"refused": 1}


def test_grounding_replaces_its_calls_and_keeps_their_cost(tmp_path: Path):
    calls = [CallId(key=f"g{i}", phase="ground", document_id="d") for i in range(3)]

    async def work(store: Store) -> None:
        for call in calls:
            await store.intend(call)
            await store.finish(call.key, i_said, Usage(requests=1, prompt_tokens=10))
        before = store.usage_by_phase()
        await store.finish_groundings([Fold("g", "d", ["g0", "g1", "g2"], scores=(0.5, None, 1.0))])
        assert store.usage_by_phase() == before

    i_said = [{"yes": 1.0}, 1.0, "logprobs"]
    with Store(tmp_path) as store:
        run(work(store))
        assert store.find_call("g0") is None
        assert store.call_counts()["done"] == 3
        found = store.find_grounding("g")
        assert found is not None
        assert found.scores == (0.5, None, 1.0)
        assert store.usage_by_phase()["ground"] == Usage(requests=3, prompt_tokens=30)


def test_appends_that_arrive_together_share_a_commit(tmp_path: Path):
    async def work(store: Store) -> int:
        assert store._writer is not None
        before = store._writer.commits
        await asyncio.gather(
            *(store.intend(CallId(key=f"k{i}", phase="p", document_id="d")) for i in range(200))
        )
        return store._writer.commits - before

    with Store(tmp_path) as store:
        commits = run(work(store))
        assert store.call_counts()["intent"] == 200
    assert 1 <= commits < 100


def test_documents_are_stored_once_and_come_back_whole(tmp_path: Path):
    text = "Ein Brief\x00 mit \ud83d Rest. 日本語 " * 50
    document = Document.of(text, source="mem", title="T")
    pieces = (Piece(index=0, start=0, end=len(text), num_tokens=7),)
    with Store(tmp_path) as store:
        store.add_document(document, pieces)
        store.add_document(document, pieces)
        assert store.document_ids() == (document.id,)
        size = store._one("SELECT LENGTH(text) FROM document")
        assert size is not None
        assert size[0] < len(text), "compressed"
    with Store(tmp_path, writable=False) as store:
        assert (store.document(document.id), store.pieces(document.id)) == (document, pieces)


def test_a_question_id_must_mean_one_question(tmp_path: Path):
    with Store(tmp_path) as store:
        store.add_question(question(), "d", 0)
        store.add_question(question(), "d", 0)
        with pytest.raises(StoreError, match="already used"):
            store.add_question(question(), "another", 1)


def test_trees_come_back_in_corpus_order_parents_before_children(tmp_path: Path):
    root = Node(id="z", parent=None, depth=0, ordinal=0, turns=())
    late = Node(id="a", parent="z", depth=1, ordinal=2, turns=())
    early = Node(id="b", parent="z", depth=1, ordinal=1, turns=())
    deep = Node(id="0", parent="b", depth=2, ordinal=0, turns=())

    async def work(store: Store) -> None:
        await store.put_nodes(tree(), [deep, late])
        await store.put_nodes(tree(), [early, root])
        assert store.tree_state("t") == "growing"
        assert list(store.trees(only_finished=True)) == []
        await store.finish_tree(tree(nodes=(root, early, late, deep)))

    with Store(tmp_path) as store:
        store.add_question(question(), "d", 0)
        run(work(store))
    (found,) = load_trees(tmp_path)
    assert [node.id for node in found.nodes] == ["z", "b", "a", "0"]


def test_two_writers_are_refused_but_a_reader_is_welcome(tmp_path: Path):
    with Store(tmp_path) as store:
        with pytest.raises(StoreError, match="Another process") as caught:
            Store(tmp_path)
        assert "agenticlu status" in (caught.value.hint or "")
        store.put(a=1)
        with Store(tmp_path, writable=False) as reader:
            assert reader.get("a") == 1
            with pytest.raises(StoreError, match="read-only"):
                reader.put(a=2)
    Store(tmp_path).close()


def test_a_killed_writer_leaves_its_finished_calls_and_no_lock(tmp_path: Path):
    script = (
        "import asyncio, os, sys\n"
        "from agenticlu.search.store import Store\n"
        "from agenticlu.search.store import CallId\n"
        "from agenticlu.core.records import Usage\n"
        "async def work(s):\n"
        "    for i in range(5):\n"
        "        await s.intend(CallId(key=f'k{i}', phase='p', document_id='d'))\n"
        "        if i < 4: await s.finish(f'k{i}', i, Usage(requests=1))\n"
        "    os.kill(os.getpid(), 9)\n"
        f"asyncio.run(work(Store({str(tmp_path)!r})))\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    with Store(tmp_path) as store:
        assert store.call_counts() == {"done": 4, "failed": 0, "intent": 1, "repeated": 0}


def test_foreign_torn_and_newer_files_are_refused_in_words(tmp_path: Path):
    foreign, torn, newer = tmp_path / "foreign", tmp_path / "torn", tmp_path / "newer"
    for folder in (foreign, torn):
        folder.mkdir()
    connection = sqlite3.connect(foreign / "run.sqlite")
    connection.execute("CREATE TABLE theirs (x)")
    connection.commit()
    connection.close()
    (torn / "run.sqlite").write_bytes(b"this is no database at all, only words" * 50)
    Store(newer).close()
    connection = sqlite3.connect(newer / "run.sqlite")
    connection.execute("PRAGMA user_version = 99")
    connection.commit()
    connection.close()
    for folder, words in ((foreign, "another program"), (torn, "not a readable"), (newer, "newer")):
        for writable in (True, False):
            with pytest.raises(StoreError, match=words):
                Store(folder, writable=writable)
    with pytest.raises(StoreError, match="not a run folder"):
        Store(tmp_path / "nothing", writable=False)
    assert not (tmp_path / "nothing").exists()


def test_an_older_file_is_read_as_it_is_and_upgraded_once_it_is_written_to(tmp_path: Path):
    async def work(store: Store, key: str, usage: Usage) -> None:
        await store.intend(replace(CALL, key=key))
        await store.finish(key, "reply", usage)

    before = Usage(requests=1, prompt_tokens=9, completion_tokens=5)
    after = before.model_copy(update={"thinking_tokens": 4})
    with Store(tmp_path) as store:
        run(work(store, "k1", before))
    make_older(tmp_path, 1)
    with Store(tmp_path, writable=False) as store:
        assert store.total_usage() == before
        assert "thinking_tokens" not in store.columns("call"), "else it is no older file"
    with Store(tmp_path) as store:
        run(work(store, "k2", after))
        run(store.finish_groundings([Fold("g", "d", ("k1",))]))
        assert store.total_usage() == before + after
    with Store(tmp_path, writable=False) as store:
        assert store.total_usage() == before + after
        assert store.total_usage().thinking_tokens == 4


def test_what_nobody_counted_is_bounded_through_kills_failures_and_folding(tmp_path: Path):
    most = Usage(prompt_tokens=100, completion_tokens=20)
    known = Usage(requests=1, prompt_tokens=60, completion_tokens=7)

    async def work(store: Store) -> None:
        ground = CallId("k", "ground", "d")
        await store.intend(ground, most)
        assert store.cut_by_phase() == {"ground": most}
        await store.intend(ground, most)  # after a kill
        assert store.cut_by_phase() == {"ground": most + most}
        await store.fail("k", "no", known)
        assert store.cut_by_phase() == {"ground": most}
        assert store.total_usage() == known
        await store.intend(ground, most)  # --retry-failed: what is known must not be lost
        told = known.model_copy(update={"requests": 0})
        assert store.cut_by_phase() == {"ground": most + told + most}
        await store.finish("k", "reply", known)
        assert store.cut_by_phase() == {"ground": most + told}
        assert store.total_usage() == known
        await store.finish_groundings([Fold("g", "d", ["k"])])
        assert store.cut_by_phase() == {"ground": most + told}
        assert not list(store.rows("call"))

    with Store(tmp_path) as store:
        run(work(store))
        assert store.engine_tokens() == (known + most + known).computed_tokens


def test_an_engine_that_was_met_and_never_replied_is_bounded(tmp_path: Path):
    most = Usage(prompt_tokens=50)

    async def work(store: Store) -> None:
        first, second = await store.begin_opening(most), await store.begin_opening(most)
        assert store.cut_by_phase() == {"setup": most + most}
        await store.end_opening(first)
        await store.end_opening(second, Usage(prompt_tokens=3))

    with Store(tmp_path) as store:
        run(work(store))
        assert store.cut_by_phase() == {"setup": Usage(prompt_tokens=3)}


def test_an_empty_file_is_called_empty(tmp_path: Path):
    (tmp_path / "run.sqlite").write_bytes(b"")
    with pytest.raises(StoreError, match="is empty"):
        Store(tmp_path, writable=False)
    Store(tmp_path).close()
    Store(tmp_path, writable=False).close()


def test_damaged_rows_are_named_and_no_reader_fails_in_another_way(tmp_path: Path):
    root = Node(id="n", parent=None, depth=0, ordinal=0, turns=(), answer="word " * 200)
    document = Document.of("word " * 200, source="mem")
    pieces = (Piece(index=0, start=0, end=5, num_tokens=1),)

    async def work(store: Store) -> None:
        await store.intend(CALL)
        await store.finish(CALL.key, "word " * 200, Usage())
        await store.finish_groundings([Fold("g", document.id, [], scores=(0.5,))])
        await store.finish_tree(tree(nodes=(root,)))

    with Store(tmp_path) as store:
        store.add_document(document, pieces)
        store.add_question(question(), document.id, 0)
        store.put(a=1)
        run(work(store))
    readers = {
        "document SET text": lambda store: store.document(document.id),
        "document SET pieces": lambda store: store.pieces(document.id),
        "question SET record": lambda store: store.questions(),
        "call SET reply": lambda store: store.find_call(CALL.key),
        "grounding SET record": lambda store: store.find_grounding("g"),
        "node SET record": lambda store: list(store.trees()),
        "tree SET record": lambda store: list(store.trees()),
        "run SET value": lambda store: store.get("a"),
    }
    for damage, read in readers.items():
        with Store(tmp_path, writable=False) as store:
            read(store)
        connection = sqlite3.connect(tmp_path / "run.sqlite")
        column = damage.split()[-1]
        cut = f"SUBSTR({column}, 1, LENGTH({column}) / 2)" if damage[:3] != "run" else "'[1'"
        connection.execute(f"UPDATE {damage} = {cut}")
        connection.commit()
        connection.close()
        with Store(tmp_path, writable=False) as store, pytest.raises(StoreError, match="damaged"):
            read(store)
        if damage.startswith("node"):
            with sqlite3.connect(tmp_path / "run.sqlite") as mended:
                mended.execute("UPDATE node SET record = ?", (pack(root.model_dump(mode="json")),))


def test_a_torn_page_is_an_error_in_words_for_those_who_stream_rows(tmp_path: Path):
    with Store(tmp_path) as store:
        for number in range(200):
            long = question(f"q{number}").model_copy(update={"text": "x" * 999})
            store.add_question(long, "d", 0)
    path = tmp_path / "run.sqlite"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))
    with Store(tmp_path, writable=False) as store:
        rows = store.rows("question")
        assert next(rows), "the case must begin well"
        with pytest.raises(StoreError, match="not a readable"):
            list(rows)


def test_every_connection_that_writes_waits_for_the_disk(tmp_path: Path, monkeypatch):
    connect = run_file.connect
    opened: list[sqlite3.Connection] = []

    def noted(path: Path, *, writable: bool = True) -> sqlite3.Connection:
        opened.append(connect(path, writable=writable))
        return opened[-1]

    monkeypatch.setattr(run_file, "connect", noted)
    with Store(tmp_path) as store:
        store.put(a=1)  # the writer's own connection is open now
        modes = [one.execute("PRAGMA synchronous").fetchone()[0] for one in opened]
        logs = [one.execute("PRAGMA journal_mode").fetchone()[0] for one in opened]
    assert (modes, logs) == ([2, 2], ["wal", "wal"]), "2 is FULL"


def test_a_disk_that_takes_nothing_is_said_with_what_to_do(tmp_path: Path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    store = Store(tmp_path)
    store.put(a=1)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        with pytest.raises(StoreError, match="disk is full, or fails") as caught:
            store.put(b="x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "Free space" in (caught.value.hint or "")
    store.close()
    with Store(tmp_path) as store:
        assert store.get("a") == 1


def test_a_full_disk_is_said_and_what_was_finished_is_kept(tmp_path: Path, monkeypatch):
    async def fill(store: Store) -> None:
        for i in range(1000):
            call = CallId(key=f"k{i}", phase="p", document_id="d")
            await store.intend(call)
            await store.finish(call.key, "x" * 300 + str(i), Usage())

    connect = run_file.connect

    def small(path: Path, *, writable: bool = True) -> sqlite3.Connection:
        connection = connect(path, writable=writable)
        connection.execute("PRAGMA max_page_count = 40")
        return connection

    Store(tmp_path).close()
    monkeypatch.setattr(run_file, "connect", small)
    store = Store(tmp_path)
    with pytest.raises(StoreError, match="disk is full"):
        run(fill(store))
    with pytest.raises(StoreError, match="disk is full"):
        store.put(late=1)
    store.close()
    monkeypatch.undo()
    with Store(tmp_path) as store:
        counts = store.call_counts()
        assert counts["done"] > 10
        assert counts["intent"] <= 1


@pytest.mark.timeout(20)
def test_what_cannot_be_written_is_said_and_nobody_waits_for_ever(tmp_path: Path):
    with Store(tmp_path) as store:
        unwritable = ("INSERT INTO run VALUES (?, ?)", ("half", chr(0xD83D)))
        with pytest.raises(StoreError):
            asyncio.run(store.append([unwritable]))
        with pytest.raises(StoreError):
            asyncio.run(store.fail("k", "later"))


@pytest.mark.parametrize("kind", ["nfs4", "fuse.sshfs", "cifs"])
def test_network_file_systems_are_refused_with_advice(tmp_path: Path, monkeypatch, kind: str):
    monkeypatch.setattr(run_file, "file_system_of", lambda path: kind)
    with pytest.raises(StoreError, match="network file system") as caught:
        Store(tmp_path / "run")
    assert "--seal" in (caught.value.hint or "")


def test_the_file_system_of_a_path_is_the_nearest_mount():
    assert run_file.file_system_of(Path("/proc/self")) == "proc"


def test_a_finished_run_is_read_where_nothing_can_be_written(unwritable) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        with Store(folder / "run") as store:
            run(store.intend(CALL))
            run(store.finish(CALL.key, "reply", Usage(requests=1)))
        unwritable(folder)
        with pytest.raises(OSError, match="denied"):
            (folder / "run" / "x").touch()
        with Store(folder / "run", writable=False) as store, store.snapshot():
            found = store.find_call(CALL.key)
            assert found is not None
            assert found.reply == "reply"
        with pytest.raises(StoreError):
            Store(folder / "run")
        os.seteuid(os.getuid())
        folder.chmod(0o755)
        (folder / "run").chmod(0o755)


def test_a_killed_run_where_nothing_can_be_written_is_refused_with_advice(unwritable) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        with Store(folder / "live") as store:
            run(store.intend(CALL))
            shutil.copytree(folder / "live", folder / "run")
        assert (folder / "run" / "run.sqlite-wal").stat().st_size
        (folder / "run" / "run.sqlite-shm").unlink(missing_ok=True)
        unwritable(folder)
        with pytest.raises(StoreError, match="not closed by its writer") as caught:
            Store(folder / "run", writable=False)
        assert "cp -r" in (caught.value.hint or "")
        os.seteuid(os.getuid())
        for path in (folder, folder / "run", folder / "live"):
            path.chmod(0o755)
