"""Tables of text: aligned, and as wide as their longest cell."""

from pipeline.base.text_table import text_table


def test_columns_are_aligned_and_have_their_least_width():
    lines = text_table([("layer", -8), ("ms", 6)], [["stem", "1.5"], ["up", "12.25"]])
    assert lines == ["layer       ms", "stem       1.5", "up       12.25"]


def test_column_grows_with_its_longest_cell_and_the_others_stay_aligned():
    lines = text_table([("a", -1), ("b", 1), ("c", 1)], [["long name", "1", "22"]], gap="  ")
    assert lines == ["a          b   c", "long name  1  22"]
    assert text_table([("a", 3)], []) == ["  a"]
