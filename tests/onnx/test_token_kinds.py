"""What a model says of each token, for who decides otherwise."""

from backends.onnx.spans import LEAST, kinds

LABELS = ("O", "B-SURNAME", "I-SURNAME", "CITY")


def test_every_kind_that_a_token_may_be_is_told_with_both_marks_together():
    rows = [[0.0, 0.0, 0.0, 0.0], [0.5, 0.2, 0.1, 0.2], [0.9, LEAST / 2, 0.0, LEAST]]
    told = [(start, end, kind, round(p, 3)) for start, end, kind, p in kinds([(0, 0), (0, 4), (5, 9)], rows, LABELS)]
    assert told == [(0, 4, "SURNAME", 0.3), (0, 4, "CITY", 0.2), (5, 9, "CITY", LEAST)]
