"""Answers and options as data sets write them."""

from __future__ import annotations

import contextlib
import datetime
import decimal
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenticlu.core.errors import DocumentError
from agenticlu.core.golds import read_golds
from agenticlu.core.options import Options, find_option, option_letter, option_number, read_options

FORMS = [
    ("Ada", ("Ada",)),
    (["Ada", ["A. Larkin", " Ada "]], ("Ada", "A. Larkin")),
    (3, ("3",)),
    (3.0, ("3",)),
    (2.5, ("2.5",)),
    (decimal.Decimal("3.00"), ("3",)),
    (True, ("yes", "true")),
    (False, ("no", "false")),
    (datetime.date(1990, 5, 3), ("1990-05-03",)),
    (datetime.datetime(1990, 5, 3), ("1990-05-03",)),
    (None, ()),
    (float("nan"), ()),
    ([None, float("nan"), "", " "], ()),
    ([], ()),
    ({}, ()),
    ({"text": ["Ada"], "answer_start": [1]}, ("Ada",)),
    ({"text": [], "answer_start": []}, ()),
    ({"text": "Ada", "answer_start": 1}, ("Ada",)),
    ([{"text": "Ada", "tokens": ["Ada"]}, {"text": None}], ("Ada",)),
    ({"value": "Ada", "aliases": ["A."], "normalized_aliases": ["ada"]}, ("Ada", "A.")),
    ({"aliases": [], "normalized_aliases": ["ada"], "normalized_value": "ada"}, ("ada",)),
    ([{"answer": "Ada", "provenance": [{"title": "x"}]}, {"provenance": []}], ("Ada",)),
    ([{"answer": "", "meta": {"score": 1}}], ()),
    ({"short_answers": [{"text": ["Ada"], "start_byte": [1]}], "yes_no_answer": [-1]}, ("Ada",)),
    ({"short_answers": [], "yes_no_answer": "YES", "long_answer": {}}, ("yes",)),
    ({"short_answers": [{"text": []}], "yes_no_answer": [0, -1]}, ("no",)),
    ({"number": "4", "date": {"day": "", "month": "", "year": ""}, "spans": []}, ("4",)),
    ({"number": "", "date": {"day": "3", "month": "May", "year": ""}, "spans": []}, ("3 May",)),
    ({"number": "", "spans": ["Ada", "Bo"]}, ("Ada, Bo", "Ada and Bo")),
    ({"spans": ["4", "4", "5"], "types": ["number"] * 3}, ("4", "5")),
    ({"unanswerable": False, "extractive_spans": [], "yes_no": True, "free_form_answer": ""},
     ("yes", "true")),
    ({"unanswerable": False, "extractive_spans": ["a", "b"], "yes_no": None,
      "free_form_answer": "", "evidence": ["x"]}, ("a, b", "a and b")),
    ({"unanswerable": True, "extractive_spans": [], "yes_no": None, "free_form_answer": ""}, ()),
    ([{"answer": {"free_form_answer": "x", "extractive_spans": []}, "worker_id": "1"}], ("x",)),
    ({"input_text": ["Ada"], "answer_start": [3]}, ("Ada",)),
    ('["Ada", "A. Larkin"]', ("Ada", "A. Larkin")),
    ("['Ada', \"O'Neill\"]", ("Ada", "O'Neill")),
    ("['Ada' 'Bo'\n 'Cy']", ("Ada", "Bo", "Cy")),
    ("array(['Ada', 'Bo'], dtype=object)", ("array(['Ada', 'Bo'], dtype=object)",)),
    ("{'text': array(['Ada'], dtype=object), 'answer_start': array([1])}", ("Ada",)),
    ('{"value": "Ada", "aliases": []}', ("Ada",)),
    # These are texts: a list of numbers, a set, an object, an unfinished list.
    ("[1, 2]", ("[1, 2]",)),
    ("{a, b}", ("{a, b}",)),
    ('{"x": 1}', ('{"x": 1}',)),
    ("[Ada", ("[Ada",)),
    ("[sic]", ("[sic]",)),
]  # fmt: skip


@pytest.mark.parametrize(("value", "golds"), FORMS)
def test_accepted_answers_are_read_whatever_their_form(value, golds) -> None:
    assert read_golds(value) == golds
    assert read_golds([value]) == golds
    if golds and not isinstance(value, str | decimal.Decimal | datetime.date):
        assert read_golds(json.dumps([value])) in (golds, (json.dumps([value]),))


def test_answers_may_be_kept_as_they_are_written() -> None:
    assert read_golds([" 12", "12", "", None], as_written=True) == (" 12", "12")
    assert read_golds([" 12", "12", "", None]) == ("12",)


def test_numpy_arrays_are_lists() -> None:
    numpy = pytest.importorskip("numpy")
    assert read_golds(numpy.array(["Ada", "Bo"])) == ("Ada", "Bo")
    assert read_golds({"text": numpy.array(["Ada"], dtype=object)}) == ("Ada",)
    assert read_golds(numpy.float64(3)) == ("3",)
    assert read_options(numpy.array(["red", "blue"])).texts == ("red", "blue")
    assert find_option(numpy.int64(1), Options(("red", "blue"))) == 1


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"start_token": 1, "end_token": 2}, "an object with 'start_token', 'end_token'"),
        ([{"name": "Ada"}], "an object with 'name'"),
        (b"\xff", "the type bytes"),
        ([[[["x"]]]] and [object()], "the type object"),
    ],
)
def test_a_form_that_is_not_known_is_named(value, words: str) -> None:
    with pytest.raises(DocumentError, match=words) as caught:
        read_golds(value)
    assert "Give a text" in (caught.value.hint or "")


def test_deep_nesting_is_refused() -> None:
    value: object = "Ada"
    for _ in range(500):
        value = [value]
    with pytest.raises(DocumentError, match="nested"):
        read_golds(value)
    assert read_golds("[" * 5000 + "]" * 5000) == ("[" * 5000 + "]" * 5000,)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["text", "value", "aliases", "answer", "spans", "short_answers", "x",
                         "label", "yes_no_answer", "number", "date", "free_form_answer"])
        | st.text(max_size=3),
        inner,
        max_size=3,
    ),
    max_leaves=8,
)  # fmt: skip


@given(JSON)
def test_any_value_is_read_or_refused_in_words(value) -> None:
    for read in (read_golds, read_options):
        for given_value in (value, json.dumps(value), repr(value)):
            found: object = ()
            with contextlib.suppress(DocumentError):
                found = read(given_value)
            assert isinstance(found, Options) or all(text.strip() for text in found)
    find_option(value, Options(("red", "blue"), ("A", "B")))


@pytest.mark.parametrize(
    ("value", "texts", "labels"),
    [
        (["red", "blue"], ("red", "blue"), ("A", "B")),
        ([4, 5.0, True], ("4", "5", "True"), ("A", "B", "C")),
        (["A. red", "B. blue"], ("red", "blue"), ("A", "B")),
        (["(A) red", "(B) blue"], ("red", "blue"), ("A", "B")),
        (["A. red", "blue"], ("A. red", "blue"), ("A", "B")),
        ({"label": ["1", "2"], "text": ["red", "blue"]}, ("red", "blue"), ("1", "2")),
        ([{"label": "A", "text": "red"}, {"label": "B", "text": "blue"}], ("red", "blue"), "AB"),
        ({"A": "red", "B": "blue", "C": None}, ("red", "blue"), ("A", "B")),
        ('["red", "blue"]', ("red", "blue"), ("A", "B")),
        ("['red' 'blue']", ("red", "blue"), ("A", "B")),
        ("A) red\nB) blue", ("red", "blue"), ("A", "B")),
        (None, (), ()),
        ([], (), ()),
        (float("nan"), (), ()),
    ],
)
def test_options_are_read_whatever_their_form(value, texts, labels) -> None:
    found = read_options(value)
    assert (found.texts, found.labels) == (texts, tuple(labels))


@pytest.mark.parametrize("value", ["red", 5, [["red"]], [None, "red"], {"colour": "red"}, True])
def test_other_options_are_refused(value) -> None:
    with pytest.raises(DocumentError, match="options must be a list of strings"):
        read_options(value)


@pytest.mark.parametrize(
    ("gold", "from_one", "number"),
    [
        ("B", False, 1),
        ("b", False, 1),
        ("(B)", False, 1),
        ("B.", False, 1),
        ("B. blue", False, 1),
        ("(B) Blue", False, 1),
        ("blue", False, 1),
        ("Blue", False, 1),
        (1, False, 1),
        (1.0, False, 1),
        ("1", False, 1),
        (0, False, 0),
        (2, True, 1),
        (0, True, None),
        (3, False, None),
        (-1, False, None),
        (True, False, None),
        (None, False, None),
        ("green", False, None),
        (["blue"], False, 1),
        (["green", "b"], False, 1),
    ],
)
def test_the_right_option_is_found_by_text_label_or_position(gold, from_one, number) -> None:
    options = Options(("red", "blue", "a lamp"), ("A", "B", "C"))
    assert find_option(gold, options, from_one=from_one) == number


def test_labels_come_before_positions_and_texts_before_labels() -> None:
    arc = Options(("red", "blue", "grey"), ("1", "2", "3"))
    assert find_option("2", arc) == find_option(2, arc) == 1
    figures = Options(("4", "3", "2"), ("1", "2", "3"))
    assert find_option("2", figures) == 2
    swapped = Options(("B", "A"), ("A", "B"))
    assert find_option("B", swapped) == 0


def test_letters_go_on_after_z() -> None:
    letters = [option_letter(number) for number in range(702)]
    assert (letters[25], letters[26], letters[51], letters[52], letters[-1]) == (
        *("Z", "AA", "AZ", "BA"),
        "ZZ",
    )
    assert [option_number(letter) for letter in letters] == list(range(702))
    assert len(set(letters)) == 702
