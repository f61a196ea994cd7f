from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from pathlib import Path

import pytest
from made_trees import DOCUMENT, PIECES, QUESTION, TEXT, node, tree_view

from agenticlu.core.records import Document, Node, Pair, Turn, Verdict
from agenticlu.data.pairs import PairPolicy, build_pairs, build_rows, build_self_checks, build_trace
from agenticlu.data.tree_view import Funnel
from agenticlu.dialogue.steps import Dialogue, load_profile
from agenticlu.documents import mark, split
from agenticlu.documents.tokens import ApproximateTokenizer
from agenticlu.engines.base import Sampling
from agenticlu.engines.scripted import ScriptedEngine
from agenticlu.judges import is_correct


def test_training_reads_what_inference_sends():
    """The conversation of a trace is, message for message, what a dialogue would have sent."""
    first = node("a", 0.0, check="no")
    second = node("b", 1.0, parent="a", depth=2)
    trees = tree_view(first, second)
    row = build_trace(trees)
    assert row is not None
    replies = [turn.reply for step in (first, second) for turn in step.turns]
    engine = ScriptedEngine(replies)

    async def infer() -> list[list[dict[str, str]]]:
        dialogue = Dialogue(
            profile=load_profile(),
            document_id=DOCUMENT.id,
            view=mark(DOCUMENT, PIECES),
            question=QUESTION,
            max_rounds=2,
        )
        while (request := dialogue.next_request()) is not None:
            sampled = await engine.sample(request.messages, Sampling())
            dialogue = dialogue.advance(request.turn(sampled.completions[0]))
        return [[m.model_dump() for m in sent.messages] for sent in engine.requests]

    sent = asyncio.run(infer())
    assert len(sent) == 10, "two whole rounds"
    roles = [message["role"] for message in row["messages"]]
    assert roles == ["system", *["user", "assistant"] * 10]
    assert [m["role"] for m in sent[-1]] == roles[:-1]
    heads = [message["content"].split("\n\n")[0] for message in (sent[-1][1], row["messages"][1])]
    assert heads[0] == heads[1] == mark(DOCUMENT, PIECES)
    for number, message in enumerate(row["messages"]):
        if message["role"] == "assistant":
            assert message["content"] == replies[number // 2 - 1]


def test_a_trace_of_a_real_search_is_the_dialogue_to_the_byte(tmp_path: Path):
    """With requests as the search stored them, the whole text is equal, not only the skeleton."""
    profile = load_profile()
    dialogue = Dialogue(
        profile=profile, document_id=DOCUMENT.id, view="short view", question=QUESTION
    )
    turns = []
    while (request := dialogue.next_request()) is not None:
        reply = {"answer": "Answer: Brellin", "check": "yes"}.get(request.kind, request.kind)
        turn = Turn(kind=request.kind, wording=request.wording, request=request.text, reply=reply)
        turns.append(turn)
        dialogue = dialogue.advance(turn)
    row = build_trace(tree_view(node("a", 1.0, turns=tuple(turns))))
    assert row is not None
    inference = Dialogue(
        profile=profile, document_id=DOCUMENT.id, view=mark(DOCUMENT, PIECES), question=QUESTION
    )
    for turn in turns:
        request = inference.next_request()
        assert request is not None
        sent = [m.model_dump() for m in request.messages]
        assert sent == row["messages"][: len(sent)]
        inference = inference.advance(turn)


def test_the_shortest_right_path_becomes_the_trace():
    row = build_trace(
        tree_view(node("a", 0.0), node("b", 1.0, ordinal=1), node("c", 1.0, parent="a", depth=2))
    )
    assert row is not None
    assert (row["node_id"], row["depth"]) == ("b", 1)


def test_a_self_check_that_disagrees_is_left_out_at_the_end():
    agrees = build_trace(tree_view(node("a", 1.0, check="Yes.")))
    denies = build_trace(tree_view(node("a", 1.0, check="no")))
    assert agrees is not None
    assert denies is not None
    assert (agrees["has_check"], denies["has_check"]) == (True, False)
    assert len(agrees["messages"]) == len(denies["messages"]) + 2


def test_a_self_check_inside_a_trace_says_no():
    row = build_trace(tree_view(node("a", 0.0, check="Yes."), node("b", 1.0, parent="a", depth=2)))
    assert row is not None
    assert row["messages"][10] == {"role": "assistant", "content": "no"}


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([node("a", 0.0)], "no right answer"),
        ([node("a", None, answer="x")], "no right answer"),
        ([node("a", 1.0, kept=())], "unsupported"),
        ([node("a", 1.0, answer="")], "empty"),
        ([node("a", 1.0, status="failed", failure="x")], "failed"),
        ([], "no right answer"),
    ],
)
def test_a_tree_without_a_trace_has_a_reason(nodes, reason):
    funnel = Funnel()
    assert build_trace(tree_view(*nodes), funnel) is None
    assert dict(funnel.traces) == {reason: 1}


def test_siblings_give_a_pair_at_every_turn_in_which_they_differ():
    trees = tree_view(node("a", 1.0), node("b", 0.0, ordinal=1, kept=(1,)))
    funnel = Funnel()
    (pair,) = build_pairs(trees, PairPolicy(), funnel)
    assert (pair.chosen, pair.rejected, pair.kind) == ("a", "b", "step")
    rows = build_rows(trees, pair, PairPolicy(), funnel)
    assert [row["turn_kind"] for row in rows] == ["clarify", "sub_answer", "answer"]
    assert dict(funnel.rows) == {"written": 3, "equal": 1}
    for row in rows:
        assert row["prompt"][0]["role"] == "system"
        assert row["prompt"][-1]["role"] == "user"
        assert [m["role"] for m in row["chosen"] + row["rejected"]] == ["assistant"] * 2
        assert row["chosen"] != row["rejected"]
        assert (row["score_chosen"], row["score_rejected"]) == (1.0, 0.0)
        assert mark(DOCUMENT, PIECES) in row["prompt"][1]["content"]
    answer = rows[-1]
    assert [m["content"] for m in answer["prompt"] if m["role"] == "assistant"] == [
        "What of a?",
        "<para 1>",
        "It is a.",
    ]


@pytest.mark.parametrize(
    ("nodes", "fates"),
    [
        ([node("a", 1.0), node("b", 1.0, ordinal=1)], {"all right": 2}),
        ([node("a", 0.0), node("b", 0.2, ordinal=1)], {"all wrong": 2}),
        ([node("a", 1.0)], {"all right": 1}),
        ([node("a", 1.0), node("b", None, ordinal=1)], {"all right": 1, "unscored": 1}),
        ([node("a", 1.0), node("b", 0.9, ordinal=1)], {"below margin": 1, "unpaired": 1}),
        (
            [node("a", 1.0), node("b", 0.0, ordinal=1, answer="")],
            {"all right": 1, "empty": 1},
        ),
        (
            [node("a", 1.0), node("b", 0.0, ordinal=1, answer="I'm sorry, I can't help.")],
            {"all right": 1, "refused": 1},
        ),
        (
            [node("a", 1.0, kept=()), node("b", 0.0, ordinal=1)],
            {"unsupported": 1, "all wrong": 1},
        ),
        (
            [node("a", 1.0), node("b", 0.0, ordinal=1, status="failed", failure="x")],
            {"all right": 1, "failed": 1},
        ),
        ([], {}),
    ],
)
def test_what_gives_no_pair_is_counted_under_its_reason(nodes, fates):
    funnel = Funnel()
    assert build_pairs(tree_view(*nodes), PairPolicy(), funnel) == []
    assert dict(funnel.nodes) == fates


def test_truncated_replies_give_no_pair():
    whole = node("b", 0.0, ordinal=1)
    cut = tuple(turn.model_copy(update={"finish_reason": "length"}) for turn in whole.turns)
    funnel = Funnel()
    trees = tree_view(node("a", 1.0), whole.model_copy(update={"turns": cut}))
    assert build_pairs(trees, PairPolicy(), funnel) == []
    assert funnel.nodes["truncated"] == 1


def test_a_clarification_that_holds_the_answer_is_a_leak():
    leaking = node("a", 1.0)
    turns = (
        leaking.turns[0].model_copy(update={"reply": "Is it Brellin?"}),
        *leaking.turns[1:],
    )
    trees = tree_view(leaking.model_copy(update={"turns": turns}), node("b", 0.0, ordinal=1))
    assert trees.is_tainted(trees.tree.nodes[1])
    funnel = Funnel()
    assert build_pairs(trees, PairPolicy(), funnel) == []
    assert funnel.nodes["leak"] == 1
    (pair,) = build_pairs(trees, PairPolicy(drop_leaks=False))
    assert all(row["leak"] for row in build_rows(trees, pair, PairPolicy()))
    named = tree_view(
        *trees.tree.nodes[1:], question=QUESTION.model_copy(update={"text": "Brellin?"})
    )
    assert not named.is_tainted(named.tree.nodes[1])


def test_the_rejected_one_follows_the_policy():
    siblings = [
        node("a", 1.0),
        node("low", 0.0, ordinal=1, kept=(2,)),
        node("mid", 0.4, ordinal=2, kept=(2,)),
        node("near", 0.7, ordinal=3, kept=(1, 2)),
    ]
    picked = {}
    for policy in ("mean-2sd", "min", "near-miss"):
        (pair,) = build_pairs(tree_view(*siblings), PairPolicy(rejected=policy, pairs_per_node=1))
        picked[policy] = pair.rejected
    assert picked == {"mean-2sd": "low", "min": "low", "near-miss": "near"}
    tight = [node("a", 1.0), *(node(f"n{i}", 0.5 + i / 100, ordinal=i + 1) for i in range(6))]
    tight.append(node("outlier", 0.0, ordinal=9))
    (pair,) = build_pairs(tree_view(*tight), PairPolicy(rejected="mean-2sd", pairs_per_node=1))
    scores = [n.score or 0.0 for n in tight]
    mean = sum(scores) / len(scores)
    spread = (sum((s - mean) ** 2 for s in scores) / len(scores)) ** 0.5
    wanted = min((n for n in tight[1:]), key=lambda n: abs((n.score or 0.0) - (mean - 2 * spread)))
    assert pair.rejected == wanted.id


@pytest.mark.parametrize(("gold", "rejected"), [((1, 2), "near"), (None, "near"), ((1, 3), None)])
def test_the_right_pieces_of_a_near_miss_are_those_of_its_path(gold, rejected):
    """The second of two facts is looked for in the second round; the first was kept before."""
    nodes = [
        node("a", 0.0, check="no", kept=(1,)),
        node("right", 1.0, parent="a", depth=2, kept=(2,)),
        node("far", 0.0, parent="a", depth=2, ordinal=1, kept=(1,)),
        node("near", 0.0, parent="a", depth=2, ordinal=2, kept=(2,)),
    ]
    trees = tree_view(*nodes, question=QUESTION.model_copy(update={"gold_pieces": gold}))
    pairs = build_pairs(trees, PairPolicy(rejected="near-miss"))
    assert [pair.rejected for pair in pairs] == ([rejected] if rejected else [])


def test_every_node_is_used_once():
    siblings = [node(f"r{i}", 1.0, ordinal=i) for i in range(4)]
    siblings += [node(f"w{i}", 0.0, ordinal=4 + i) for i in range(3)]
    funnel = Funnel()
    pairs = build_pairs(tree_view(*siblings), PairPolicy(pairs_per_node=3), funnel)
    used = [name for pair in pairs for name in (pair.chosen, pair.rejected)]
    assert len(pairs) == 3
    assert len(set(used)) == 6
    assert dict(funnel.nodes) == {"chosen": 3, "rejected": 3, "enough pairs": 1}


def test_a_path_pair_is_compared_where_the_paths_part():
    nodes = [
        node("a", 0.0, check="no"),
        node("b", 0.2, ordinal=1),
        node("c", 1.0, parent="a", depth=2),
        node("d", 0.0, parent="b", depth=2),
    ]
    trees = tree_view(*nodes)
    policy = PairPolicy(pairs="path", rejected="min")
    (pair,) = build_pairs(trees, policy)
    assert (pair.kind, pair.chosen, pair.rejected) == ("path", "c", "d")
    rows = build_rows(trees, pair, policy)
    assert rows[0]["chosen"][0]["content"] == "What of a?"
    assert rows[0]["rejected"][0]["content"] == "What of b?"


def test_rows_of_very_unequal_length_are_left_out():
    long = node("b", 0.0, ordinal=1, answer="wrong " * 60)
    trees = tree_view(node("a", 1.0), long)
    (pair,) = build_pairs(trees, PairPolicy())
    funnel = Funnel()
    rows = build_rows(trees, pair, PairPolicy(max_log_ratio=1.0), funnel)
    assert "answer" not in [row["turn_kind"] for row in rows]
    assert funnel.rows["length ratio"] == 1


def test_of_equal_scores_the_reply_nearest_in_length_is_rejected():
    long = node("long", 0.0, ordinal=1, answer="it is not to be found anywhere in here")
    near = node("near", 0.0, ordinal=2, answer="Sorvale")
    for siblings in ((long, near), (near, long)):
        (pair,) = build_pairs(tree_view(node("a", 1.0), *siblings), PairPolicy(pairs_per_node=1))
        assert pair.rejected == "near"


def test_a_row_tells_its_margin_lengths_and_how_often_no_document_was_needed():
    trees = tree_view(node("a", 1.0), node("b", 0.25, ordinal=1, answer="Sor"))
    trees = replace(trees, tree=trees.tree.model_copy(update={"closed_book": 0.5}))
    (pair,) = build_pairs(trees, PairPolicy())
    rows = {row["turn_kind"]: row for row in build_rows(trees, pair, PairPolicy())}
    assert {row["margin"] for row in rows.values()} == {0.75}
    assert rows["answer"]["log_length_ratio"] == pytest.approx(math.log(7 / 3), abs=1e-4)
    trace = build_trace(trees)
    assert trace is not None
    assert {row["closed_book"] for row in (trace, *rows.values())} == {0.5}


def test_a_right_answer_is_chosen_by_the_judges_not_by_the_score():
    low = node("a", 0.3, verdicts=(Verdict(judge="llm:m", value=1.0),))
    high = node("b", 0.4, ordinal=1, verdicts=(Verdict(judge="llm:m", value=0.0),))
    assert is_correct(low.verdicts)
    funnel = Funnel()
    assert build_pairs(tree_view(low, high), PairPolicy(), funnel) == []
    assert funnel.nodes["tie"] == 1


def test_a_wrong_answer_on_the_way_is_no_target():
    """The conversation keeps it; training does not learn it."""
    row = build_trace(tree_view(node("a", 0.0, check="no"), node("b", 1.0, parent="a", depth=2)))
    assert row is not None
    said = {i: m["content"] for i, m in enumerate(row["messages"]) if m["role"] == "assistant"}
    learned = [said[i] for i in row["targets"]]
    assert "wrong a" in said.values()
    assert learned == [text for text in said.values() if text != "wrong a"]


def says(one: Node, kind: str, reply: str) -> Node:
    """The node with another reply of one turn."""
    turns = [t.model_copy(update={"reply": reply}) if t.kind == kind else t for t in one.turns]
    return one.model_copy(update={"turns": tuple(turns)})


PATH = PairPolicy(pairs="path", rejected="min")


def test_a_node_that_grew_from_the_best_is_no_partner():
    """A complete tree goes on below right answers; there the paths never part."""
    funnel = Funnel()
    below = tree_view(node("a", 1.0), node("b", 0.0, parent="a", depth=2))
    assert build_pairs(below, PATH, funnel) == []
    assert dict(funnel.nodes) == {"no partner": 1, "not an extreme": 1}
    beside = tree_view(*below.tree.nodes[1:], node("c", 0.4, ordinal=1))
    (pair,) = build_pairs(beside, PATH)
    assert (pair.chosen, pair.rejected) == ("a", "c"), "the lower score is below the best"
    assert build_rows(beside, pair, PATH)


@pytest.mark.parametrize(
    ("chosen_side", "rejected_side", "kinds"),
    [
        (0.0, 0.0, ["clarify", "sub_answer"]),
        (0.0, 1.0, ["clarify", "sub_answer"]),
        (1.0, 1.0, ["clarify", "sub_answer"]),
        (1.0, 0.0, ["clarify", "sub_answer", "answer", "check"]),
    ],
)
def test_where_paths_part_an_answer_is_chosen_only_if_it_is_the_right_one(
    chosen_side, rejected_side, kinds
):
    """The best node lies below `a`, the worst below `b`; the rows are those of a and b."""
    policy = PATH.model_copy(update={"turns": ("clarify", "sub_answer", "answer", "check")})
    trees = tree_view(
        node("a", chosen_side, answer="of a", check="yes" if chosen_side else "no"),
        node("b", rejected_side, ordinal=1, answer="of b", check="yes" if rejected_side else "no"),
        says(node("c", 1.0, parent="a", depth=2), "clarify", "Longer question of c?"),
        node("d", 0.0, parent="b", depth=2),
    )
    pair = Pair(
        **{"id": "p", "tree_id": "t", "document_id": DOCUMENT.id, "question_id": "q"},
        **{"kind": "path", "chosen": "c", "rejected": "d"},
        **{"score_chosen": 1.0, "score_rejected": 0.0},
    )
    funnel = Funnel()
    rows = build_rows(trees, pair, policy, funnel)
    assert [row["turn_kind"] for row in rows] == kinds
    assert funnel.rows["answers not told apart"] == 4 - len(kinds)
    assert funnel.rows.total() == 4


def test_a_chosen_self_check_says_what_the_judges_say():
    policy = PairPolicy(turns=("answer", "check"))
    found = {}
    for one, other in (("yes", "no"), ("no", "yes"), ("no", "no way"), ("yes", "perhaps")):
        funnel = Funnel()
        trees = tree_view(node("a", 1.0, check=one), node("b", 0.0, ordinal=1, check=other))
        (pair,) = build_pairs(trees, policy)
        rows = build_rows(trees, pair, policy, funnel)
        found[one, other] = [row["turn_kind"] for row in rows], funnel.rows.total()
    assert found == {
        ("yes", "no"): (["answer", "check"], 2),
        ("no", "yes"): (["answer"], 2),
        ("no", "no way"): (["answer"], 2),
        ("yes", "perhaps"): (["answer"], 2),
    }


@pytest.mark.parametrize("flawed", ["a", "b"])
def test_all_of_a_path_is_sound(flawed):
    """A refusal where the paths part would be learnt, whatever came of it later."""
    nodes = [
        node("a", 0.0, check="no"),
        node("b", 0.0, ordinal=1, check="no"),
        node("c", 1.0, parent="a", depth=2),
        node("d", 0.0, parent="b", depth=2),
    ]
    assert build_pairs(tree_view(*nodes), PATH)[0].rejected in ("b", "d")
    spoilt = [says(n, "sub_answer", "I'm sorry, I can't.") if n.id == flawed else n for n in nodes]
    funnel = Funnel()
    pairs = build_pairs(tree_view(*spoilt), PATH, funnel)
    assert all(flawed not in (p.chosen, p.rejected) for p in pairs)
    assert funnel.nodes["refused"] == 2, "what grew from it has it on its path"


def test_a_leak_taints_what_grew_from_it():
    leaking = says(node("a", 0.0, check="no"), "clarify", "Is it Brellin?")
    right = node("b", 1.0, parent="a", depth=2)
    wrong = node("c", 0.0, parent="a", depth=2, ordinal=1)
    trees = tree_view(leaking, right, wrong)
    funnel = Funnel()
    assert build_pairs(trees, PairPolicy(), funnel) == []
    assert funnel.nodes["leak"] == 1
    (pair,) = build_pairs(trees, PairPolicy(drop_leaks=False))
    assert all(row["leak"] for row in build_rows(trees, pair, PairPolicy()))


def test_rows_where_paths_part_tell_the_leak_further_down():
    """It is the leak that made the chosen path come out right."""
    later = says(node("c", 1.0, parent="a", depth=2), "clarify", "Is it Brellin?")
    trees = tree_view(node("a", 0.0, check="no"), later, node("b", 0.0, ordinal=1, check="no"))
    policy = PairPolicy(pairs="path", drop_leaks=False)
    (pair,) = build_pairs(trees, policy)
    rows = build_rows(trees, pair, policy)
    assert [row["depth"] for row in rows] == [1] * len(rows)
    assert rows
    assert all(row["leak"] for row in rows)
    assert build_pairs(trees, PATH) == []


def test_a_one_sided_tree_gives_no_path_pair():
    for score, fate in ((1.0, "all right"), (0.0, "all wrong")):
        funnel = Funnel()
        trees = tree_view(node("a", score), node("b", score, ordinal=1))
        assert build_pairs(trees, PATH, funnel) == []
        assert dict(funnel.nodes) == {fate: 2}


def test_a_trace_with_a_leak_is_none_and_kept_it_is_no_target():
    leaking = says(node("a", 0.0, check="no"), "clarify", "Is it Brellin?")
    trees = tree_view(leaking, node("b", 1.0, parent="a", depth=2))
    funnel = Funnel()
    assert build_trace(trees, funnel) is None
    assert dict(funnel.traces) == {"leak": 1}
    row = build_trace(trees, drop_leaks=False)
    assert row is not None
    assert row["leak"] is True
    learnt = [row["messages"][i]["content"] for i in row["targets"]]
    assert "Is it Brellin?" in [m["content"] for m in row["messages"]]
    assert "Is it Brellin?" not in learnt
    assert "What of b?" in learnt
    sound = tree_view(
        leaking, node("b", 1.0, parent="a", depth=2), node("d", 1.0, ordinal=1, depth=1)
    )
    best = build_trace(sound)
    assert best is not None
    assert best["node_id"] == "d"


def test_an_answer_that_a_kept_piece_gave_is_no_leak():
    told = Document.of(f"{TEXT} The town is Brellin.", source="test")
    pieces = split(told, ApproximateTokenizer(), 40)
    last = len(pieces) - 1
    first = node("a", 0.0, check="no", kept=(last,))
    second = says(node("b", 1.0, parent="a", depth=2), "clarify", "What of Brellin?")
    trees = replace(tree_view(first, second), document=told, pieces=pieces)
    assert not trees.is_tainted(second)
    unread = first.model_copy(update={"kept": (0,)})
    trees = replace(tree_view(unread, second), document=told, pieces=pieces)
    assert trees.is_tainted(second)


def test_a_path_that_asks_the_same_twice_is_not_learnt_from():
    """Inference ends a dialogue there, so it would never be in such a one."""
    first = node("a", 0.0, check="no")
    again = node("b", 1.0, parent="a", depth=2)
    again = again.model_copy(update={"turns": (first.turns[0], *again.turns[1:])})
    funnel = Funnel()
    trees = tree_view(first, again, node("c", 0.0, parent="a", depth=2, ordinal=1))
    assert build_trace(trees, funnel) is None
    assert funnel.traces == {"repeats": 1}
    assert build_pairs(trees, PairPolicy(), funnel) == []
    assert funnel.nodes["repeats"] == 1
    other = node("d", 1.0, parent="a", depth=2, ordinal=2)
    assert build_trace(tree_view(first, again, other))["node_id"] == "d"


def test_a_doubted_wrong_answer_teaches_the_self_check_alone():
    late = node("c", 0.0, parent="a", depth=2, check="no")
    trees = tree_view(node("a", 0.0, check="no"), node("b", 0.0, check="yes"), late)
    (row,) = build_self_checks(trees, 1)
    assert row["node_id"] == "a", "the earliest first"
    assert row["targets"] == [len(row["messages"]) - 1]
    assert row["messages"][-1] == {"role": "assistant", "content": "no"}
    assert row["messages"][-3]["content"] == "wrong a"
    assert row["score"] == 0.0
    assert [one["node_id"] for one in build_self_checks(trees, 5)] == ["a", "c"]
    assert build_self_checks(trees, 0) == []


@pytest.mark.parametrize(
    "other",
    [
        node("a", 1.0, check="no"),
        node("a", 0.0, check="yes"),
        node("a", 0.0, check="perhaps"),
        node("a", None, check="no"),
        node("a", 0.0, check="no", answer=""),
        node("a", 0.0, check="no", status="failed", failure="gone"),
    ],
    ids=["right", "believed", "unclear", "unscored", "empty", "failed"],
)
def test_only_a_sound_and_wrong_answer_is_doubted(other: Node):
    assert build_self_checks(tree_view(other), 9) == []


def test_a_profile_whose_self_check_stands_aside_teaches_none():
    trees = tree_view(node("a", 0.0, check="no"))
    published = trees.profile.model_copy(update={"layout": "published"})
    assert build_self_checks(replace(trees, profile=published), 9) == []
