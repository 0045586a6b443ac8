"""Fields: how columns of the users and items tables become the inputs of a model, fitted on train only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import polars as pl

from factorlm.errors import UserError

Side = Literal["user", "item"]
Kind = Literal["id", "categorical", "multi_hot", "numeric", "text"]
Init = Literal["random", "text"]


@dataclass(frozen=True)
class FieldSpec:
    """What a field is made of.

    Args:
        kind: ``id`` and ``categorical`` take one value, ``multi_hot`` a list of values or a string of them,
            ``numeric`` a number, ``text`` a string that a backbone reads.
        side: ``user`` or ``item``, the table the column is in.
        column: its name.
        separator: between the values of a ``multi_hot`` string.
        init: how the factors of an item's ``id`` start: ``random``, or the principal components of the item ``text``.
    """

    kind: Kind
    side: Side
    column: str
    separator: str = "|"
    init: Init = "random"

    def __post_init__(self) -> None:
        for key, allowed in (("kind", get_args(Kind)), ("side", get_args(Side)), ("init", get_args(Init))):
            if getattr(self, key) not in allowed:
                raise UserError(f"fields: {key}={getattr(self, key)!r} must be one of {', '.join(allowed)}")
        if self.init == "text" and (self.kind, self.side) != ("id", "item"):
            raise UserError(f"fields: init=text is for an id of the item, not for kind={self.kind}, side={self.side}")


@dataclass(frozen=True)
class CodedField:
    """``codes`` [N]: the category of each user or item, 0 for one unseen in training; ``num_codes`` counts the 0."""

    codes: npt.NDArray[np.int64]
    num_codes: int


@dataclass(frozen=True)
class MultiHotField:
    """``codes`` [N, L] padded with 0, and ``weights`` [N, L] that sum to 1 over the known values of each row."""

    codes: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]
    num_codes: int


@dataclass(frozen=True)
class NumericField:
    """``values`` [N]: standardized by the training mean and deviation; 0 where missing."""

    values: npt.NDArray[np.float32]


@dataclass(frozen=True)
class TextField:
    """``texts`` [T] without repeats, ``index`` [N] into them, ``in_train`` [T]: whether a training row has the text."""

    texts: list[str]
    index: npt.NDArray[np.int64]
    in_train: npt.NDArray[np.bool_]


EncodedField = CodedField | MultiHotField | NumericField | TextField


def encode_field(name: str, spec: FieldSpec, table: pl.DataFrame, in_train: npt.NDArray[np.bool_]) -> EncodedField:
    """Encode one column for every row of its table.

    Args:
        name: of the field, for messages.
        spec: kind and column.
        table: the users or items table, N rows.
        in_train: [N], rows that occur in a training interaction; vocabularies and moments come from them alone.

    Raises:
        UserError: the column is missing or not of the kind.
    """
    if spec.column not in table.columns:
        hint = "; set dataset.text to a template such as '{title}'" if spec.column == "text" else ""
        raise UserError(
            f"fields.{name}.column={spec.column} is not in the {spec.side}s table, "
            f"which has {', '.join(table.columns)}{hint}"
        )
    column = table[spec.column]
    if spec.kind == "text":
        return _encode_text(column, in_train)
    if spec.kind == "numeric":
        return _encode_numeric(name, column, in_train)
    if spec.kind == "multi_hot":
        return _encode_multi_hot(column, spec.separator, in_train)
    codes, num_codes = _codes(column.cast(pl.String), in_train)
    return CodedField(codes, num_codes)


def encode_fields(
    specs: Mapping[str, FieldSpec],
    tables: Mapping[Side, pl.DataFrame],
    in_train: Mapping[Side, npt.NDArray[np.bool_]],
) -> dict[str, EncodedField]:
    """Encode every field of a model; see `encode_field`."""
    return {name: encode_field(name, spec, tables[spec.side], in_train[spec.side]) for name, spec in specs.items()}


def _codes(values: pl.Series, in_train: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int64], int]:
    vocabulary = values.filter(pl.Series(in_train)).drop_nulls().unique().sort()
    codes = values.replace_strict(vocabulary, np.arange(1, len(vocabulary) + 1), default=0, return_dtype=pl.Int64)
    return codes.to_numpy(), len(vocabulary) + 1


def _encode_multi_hot(column: pl.Series, separator: str, in_train: npt.NDArray[np.bool_]) -> MultiHotField:
    lists = column if isinstance(column.dtype, pl.List) else column.cast(pl.String).str.split(separator)
    long = pl.DataFrame({"row": np.arange(len(lists)), "value": lists.cast(pl.List(pl.String))}).explode("value")
    codes, num_codes = _codes(long["value"], in_train[long["row"].to_numpy()])
    known = long.with_columns(code=pl.Series(codes)).filter(pl.col("code") > 0)
    known = known.with_columns(slot=pl.int_range(pl.len()).over("row"), share=1.0 / pl.len().over("row"))
    width = int(known["slot"].max() or 0) + 1  # type: ignore[arg-type]
    padded, weights = np.zeros((len(lists), width), np.int64), np.zeros((len(lists), width), np.float32)
    where = known["row"].to_numpy(), known["slot"].to_numpy()
    padded[where], weights[where] = known["code"].to_numpy(), known["share"].to_numpy()
    return MultiHotField(padded, weights, num_codes)


def _encode_numeric(name: str, column: pl.Series, in_train: npt.NDArray[np.bool_]) -> NumericField:
    numbers = column.cast(pl.Float64, strict=False)
    if numbers.is_null().sum() > column.is_null().sum():
        bad = column.filter(numbers.is_null() & column.is_not_null())[0]
        raise UserError(f"fields.{name}: kind numeric, but column {column.name} holds {bad!r}; use categorical")
    if numbers.is_infinite().any():
        raise UserError(f"fields.{name}: column {column.name} holds an infinite number; remove it")
    values = numbers.fill_null(np.nan).to_numpy()
    fitted = values[in_train & ~np.isnan(values)]
    mean, deviation = (fitted.mean(), fitted.std()) if len(fitted) else (0.0, 1.0)
    standardized = (values - mean) / (deviation if deviation > 0 else 1.0)
    return NumericField(np.nan_to_num(standardized, nan=0.0).astype(np.float32))


def _encode_text(column: pl.Series, in_train: npt.NDArray[np.bool_]) -> TextField:
    values = column.cast(pl.String).fill_null("")
    texts = values.unique().sort()
    index = values.replace_strict(texts, np.arange(len(texts)), return_dtype=pl.Int64).to_numpy()
    known = np.zeros(len(texts), np.bool_)
    known[index[in_train]] = True
    return TextField(texts.to_list(), index, known)
