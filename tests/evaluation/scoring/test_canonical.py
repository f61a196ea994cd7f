"""Which spellings of an answer are one answer, and which are two."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenticlu.evaluation.scoring.answers import matches, word_match
from agenticlu.evaluation.scoring.canonical import canonical_tokens

EQUAL = """
-3 | −3
-3 | –3
-3 | minus 3
-3 | negative three
+5 | 5
-0.5 | -.5
-$5 | −$5
−3 °C | -3 degrees Celsius
10^6 | 10⁶
10^6 | 1,000,000
10^{6} | $10^6$
1e6 | one million
2.5×10^3 | 2,500
6.02e23 | 6.02 × 10²³
10^-3 | 0.001
x² | x^2
5 km² | 5 km2
C++ | c++
C#. | C#
.NET | .net
A+ | a+
½ | 1/2
½ | \\frac{1}{2}
1½ | 1 1/2
1½ | 1.5
3/4 | 0.75
1.5 million | 1,500,000
$1.5 million | 1,500,000 dollars
£3m | £3 million
€2bn | 2 billion euros
US$5 | 5 USD
$5 | USD 5
$5 | 5
$5$ | 5
from $5 to $6 | from 5 dollars to 6 dollars
5 | €5
50% | 50 per cent
50\\% | 50 percent
5kg | 5 kilograms
3 m | 3 metres
40 ft | 40 feet
100 000 | 100,000
1’200 | 1200
10,00,000 | 1,000,000
100\u202f000 | 100000
a hundred | 100
Simon & Garfunkel | Simon and Garfunkel
AT&amp;T | AT&T
H₂O | H2O
π | pi
\\text{Ada} | Ada
1 | 1.0
😀 | 😀
the Who | The Who
J. K. Rowling | J.K. Rowling
U.S. | US
B♭ | B flat
25kgs | 25 kg
first | 1st
the second place | 2nd place
twenty-second | 22nd
one hundred and first | 101st
the Fourth of July | July 4th
the nineteenth century | 19th century
World War II | World War Two
type II diabetes | type 2 diabetes
F♯ minor | F sharp minor
25.12.2020 | December 25, 2020
12/25/2020 | 25 December 2020
1.200.000 | 1,200,000
45° | 45 degrees
45° | 45
5 km/h | 5 kilometres per hour
60 mph | 60 miles per hour
10 g/l | 10 grams per litre
5 sq km | 5 square kilometres
5 cubic metres | 5 m³
6 in | 6 inches
5 µm | 5 um
1990-1995 | 1990 to 1995
CHF 20 | 20 francs
₩5 | 5 won
x^{2} | x²
Fe²⁺ | Fe2+
vitamin B12 | vitamin B 12
COVID-19 | COVID19
No. 5 | number 5
"""
DIFFERENT = """
-3 | 3
−3 | 3
–3 | 3
minus 3 | 3
10^6 | 106
10⁶ | 106
10^6 | 10^5
1e6 | 16
x² | x2
x^2 | x2
2^10 | 210
C | C++
C | C#
C++ | C#
C# | F#
.NET | net
A+ | A
A- | A
AB+ | AB-
Na⁺ | Na
A* | A
5% | 5
€5 | $5
5 euros | 5 dollars
$5 million | $5 billion
5 kg | 5 g
5 km | 5 m
5 km | 5
½ | 12
1/2 | 12
3/4 | 3 4
<5 | 5
<5 | >5
x + 1 | x − 1
√2 | 2
1,200 | 1.2
100+ | 100
5 − 3 | 5
😀 | 😁
+ | -
Vitamin A | Vitamin
Group A | Group
R&D | R D
1990s | 1990
G♯ | G
B♭ | B
Notepad++ | Notepad
second | 2
22 seconds | 22nd
1st | 1
World War I | World War II
class mix | class 9
A minor | minor
A minor | A major
Ada won | Ada
1/2/2020 | 2 January 2020
1.234 | 1234
45° | 45 km
45 °C | 45 °F
45° N | 45 N
60 mph | 60 km/h
5 km/h | 5 km
born in 5 in Vell | born in 5 inches Vell
1 to 3 | 13
CHF 20 | €20
Fe²⁺ | Fe³⁺
B12 | 12
"""


def _pairs(table: str) -> list[tuple[str, ...]]:
    return [tuple(line.replace("\\\\", "\\").split(" | ")) for line in table.strip().splitlines()]


@pytest.mark.parametrize(("one", "other"), _pairs(EQUAL))
def test_two_spellings_of_one_answer_match(one: str, other: str) -> None:
    assert matches(one, [other]), (canonical_tokens(one), canonical_tokens(other))
    assert matches(other, [one])


@pytest.mark.parametrize(("one", "other"), _pairs(DIFFERENT))
def test_two_answers_do_not_match(one: str, other: str) -> None:
    assert not matches(one, [other]), (canonical_tokens(one), canonical_tokens(other))
    assert not matches(other, [one])


@pytest.mark.parametrize(
    ("text", "gold", "found"),
    [
        ("It is written in C++ and Rust.", "C++", True),
        ("It is written in C++ and Rust.", "C", False),
        ("It is written in C and Rust.", "C", True),
        ("It runs on .NET.", ".NET", True),
        ("It fell to -3 degrees.", "3", False),
        ("It fell to −3 degrees.", "-3", True),
        ("Pages 3-5 tell it.", "5", True),
        ("From 1990–1995 they met.", "1995", True),
        ("It cost 5 dollars.", "$5", True),
        ("About 10^6 stars.", "106", False),
        ("Blood group A+.", "A", False),
    ],
)
def test_a_gold_is_found_as_whole_words_with_their_signs(text: str, gold: str, found: bool) -> None:
    assert word_match(text, [gold]) == found


NUMBERS = st.decimals(min_value=-(10**6), max_value=10**6, allow_nan=False, places=2)


@given(NUMBERS, NUMBERS)
def test_figures_match_by_their_value_however_they_are_written(one, other) -> None:
    def spellings(number):
        plain = format(number, "f")
        yield from (plain, format(number, ",f"), plain.replace("-", "−"), f"{plain}.".rstrip("."))
        if number == int(number):
            yield from (str(int(number)), f"{int(number)}e0")
        if number >= 0:
            yield f"+{plain}"

    for spelling in spellings(one):
        assert matches(spelling, [format(one, "f")])
        assert matches(spelling, [format(other, "f")]) == (one == other)


@pytest.mark.parametrize(
    "unit",
    [" ", "-", "1", "1 ", "1,", " 000", "$", "A-", "a ", "1/", "^", "2^", "e1", "\\frac{", "− ",
     "&amp", "x.", "x'", "+", "c+", "<5", "= ", "*", "the ", "per ", "1 million "],
)  # fmt: skip
def test_spelling_is_read_in_linear_time(unit: str) -> None:
    def seconds(size: int) -> float:
        began = time.process_time()
        canonical_tokens(unit * (size // len(unit)))
        return time.process_time() - began

    seconds(1000)
    assert seconds(50_000) < 2, "seconds, of what takes 0.3 at most"
