"""Numbers in the formats of Word's lists."""

from __future__ import annotations

from agenticlu.documents.formats.numbering import format_number


def test_numbers_in_words_own_formats() -> None:
    kinds = (
        "upperRoman",
        "lowerLetter",
        "ordinal",
        "decimalZero",
        "chineseCounting",
        "none",
        "hex",
    )
    assert [format_number(4, kind) for kind in kinds] == ["IV", "d", "4th", "04", "四", "", "4"]
    assert [format_number(n, "ordinal") for n in (1, 2, 3, 11, 12, 21)] == [
        "1st",
        "2nd",
        "3rd",
        "11th",
        "12th",
        "21st",
    ]
    assert [format_number(n, "upperRoman") for n in (0, 1999, 4000)] == ["0", "MCMXCIX", "4000"]
    assert [format_number(n, "chineseCounting") for n in (10, 11, 20, 35)] == [
        "十",
        "十一",
        "二十",
        "三十五",
    ]
