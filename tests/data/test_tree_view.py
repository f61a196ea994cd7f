"""What counts as holding the answer too early."""

from __future__ import annotations

import pytest

from agenticlu.data.tree_view import is_leak


@pytest.mark.parametrize(
    ("said", "known", "answers", "leaks"),
    [
        ("Is it Brellin?", ["Which town?"], ["Brellin"], True),
        ("Is it brellin?", ["Which town?"], ["The Brellin"], True),
        ("Was it twelve hundred men?", ["How many?"], ["1,200"], True),
        ("Was it in 1984?", ["When?"], ["1984"], True),
        ("Is Brellin it?", ["Is it Brellin?"], ["Brellin"], False),
        ("Is it Brellin?", ["Which?", "They went to Brellin."], ["Brellin"], False),
        ("Is it Brellin?", ["Which?", "They went to Carth."], ["Carth", "Brellin"], True),
        ("Who lives in Brellinton?", ["Which town?"], ["Brellin"], False),
        ("Which 2 towns are near?", ["How many?"], ["2"], False),
        ("Which two towns are near?", ["How many?"], ["2"], False),
        ("Does it say 99.5?", ["How much?"], ["99.5"], False),
        ("Does she live there or no?", ["Is she?"], ["no"], False),
        ("Is it true?", ["Is she?"], ["True"], False),
        ("Is it option B?", ["Which?"], ["B"], False),
        ("Is it B?", ["Which?"], [""], False),
        ("", ["Which?"], ["Brellin"], False),
    ],
)
def test_a_leak_is_an_answer_that_nothing_gave(said, known, answers, leaks):
    assert is_leak(said, known, answers) is leaks
