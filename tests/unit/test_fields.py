from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from factorlm.data.fields import FieldSpec, encode_field
from factorlm.errors import UserError

IN_TRAIN = np.array([True, True, False, True])


def encode(kind: str, values: list[object], **kwargs: object):
    table = pl.DataFrame({"x": values}, strict=False)
    return encode_field("f", FieldSpec(kind=kind, side="item", column="x"), table, IN_TRAIN)  # type: ignore[arg-type]


def test_categories_unseen_in_training_are_zero() -> None:
    field = encode("categorical", ["b", "a", "c", None])
    assert field.codes.tolist() == [2, 1, 0, 0]
    assert field.num_codes == 3


def test_multi_hot_weights_sum_to_one_over_known_values() -> None:
    field = encode("multi_hot", [["a", "b"], ["b"], ["c", "a"], None])
    assert field.weights.sum(1).tolist() == [1.0, 1.0, 1.0, 0.0]
    assert field.codes[2].max() == field.codes[0].min()  # c is unknown, a is not
    text = encode("multi_hot", ["a|b", "b", "c|a", None])
    assert np.array_equal(text.codes, field.codes)


def test_numbers_are_standardized_on_train() -> None:
    field = encode("numeric", [1.0, 3.0, 100.0, None])
    assert field.values.tolist() == [-1.0, 1.0, 98.0, 0.0]


def test_a_constant_number_is_zero() -> None:
    assert encode("numeric", [2.0, 2.0, 2.0, 2.0]).values.tolist() == [0.0] * 4


def test_words_are_no_numbers() -> None:
    with pytest.raises(UserError, match="holds 'many'"):
        encode("numeric", ["1", "many", "2", "3"])


def test_texts_are_kept_once() -> None:
    field = encode("text", ["b", "a", "b", "a"])
    assert [field.texts[i] for i in field.index] == ["b", "a", "b", "a"]
    assert field.in_train.tolist() == [True, True]


def test_missing_column_names_those_there() -> None:
    spec = FieldSpec(kind="text", side="item", column="text")
    with pytest.raises(UserError, match=r"items table, which has x; set dataset.text"):
        encode_field("t", spec, pl.DataFrame({"x": [1]}), np.array([True]))


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(UserError, match="kind='picture' must be one of id"):
        FieldSpec(kind="picture", side="item", column="x")  # type: ignore[arg-type]
