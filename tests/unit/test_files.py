"""A user's own files: what works, and one clear line for each mistake."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from factorlm.data.sources.files import Files
from factorlm.data.tables import Frames
from factorlm.errors import UserError

COLUMNS = {"user": "customer", "item": "sku", "timestamp": "time", "value": None}
GOOD = "customer,sku,time\nann,x1,10\nbob,x2,2024-01-02\n".replace("2024-01-02", "20")


def load(path: Path, content: str | bytes | None = None, **changes: object) -> Frames:
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    arguments = {
        "items": None,
        "users": None,
        "columns": COLUMNS,
        "min_value": None,
        "negatives": "drop",
        "duplicates": "refuse",
        "text": None,
    } | changes
    return Files(interactions=str(path), **arguments).load(path.parent)  # type: ignore[arg-type]


def test_reads_csv_with_other_names(tmp_path: Path) -> None:
    frames = load(tmp_path / "a.csv", GOOD)
    assert frames.interactions.rows() == [("ann", "x1", 10, 1.0, True), ("bob", "x2", 20, 1.0, True)]
    assert frames.users["user_id"].to_list() == ["ann", "bob"]


def test_reads_every_format_alike(tmp_path: Path) -> None:
    frame = pl.read_csv(GOOD.encode())
    frame.write_parquet(tmp_path / "a.parquet")
    frame.write_ndjson(tmp_path / "a.jsonl")
    frame.write_csv(tmp_path / "a.tsv", separator="\t")
    expected = load(tmp_path / "a.csv", GOOD).interactions
    for name in ("a.parquet", "a.jsonl", "a.tsv"):
        assert load(tmp_path / name).interactions.equals(expected), name


def test_reads_iso_dates(tmp_path: Path) -> None:
    content = "customer,sku,time\nann,x1,1970-01-01T00:01:00\nbob,x2,1970-01-02 00:00:00\n"
    assert load(tmp_path / "a.csv", content).interactions["timestamp"].to_list() == [60, 86400]


def test_ids_keep_their_spelling(tmp_path: Path) -> None:
    frames = load(tmp_path / "a.csv", "customer,sku,time\n007,1,1\n7,2,2\n")
    assert frames.users["user_id"].to_list() == ["007", "7"]
    assert frames.items["item_id"].to_list() == [1, 2]


def test_joins_items_and_renders_text(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("sku,name,price\nx1,Mug,3.5\nx9,Hat,9\n")
    frames = load(tmp_path / "a.csv", GOOD, items=str(tmp_path / "items.csv"), text="{name} for {price}")
    assert frames.items["text"].to_list() == ["Mug for 3.5", "for", "Hat for 9.0"]


def test_a_repeated_pair_counts_once_at_its_first_time(tmp_path: Path) -> None:
    frames = load(tmp_path / "a.csv", "customer,sku,time\nann,x1,30\nann,x1,10\nbob,x1,5\n")
    assert frames.interactions.rows() == [("ann", "x1", 10, 1.0, True), ("bob", "x1", 5, 1.0, True)]


def test_duplicate_rows_are_dropped_on_request(tmp_path: Path) -> None:
    content = "customer,sku,time,stars\nann,x1,10,5\nann,x1,10,1\nann,x1,30,2\nbob,x1,5,4\n"
    changes = {"columns": COLUMNS | {"value": "stars"}, "min_value": 3, "negatives": "keep", "duplicates": "drop"}
    rows = load(tmp_path / "a.csv", content, **changes).interactions
    assert rows["value"].to_list() == [5, 2, 4]  # the first of equal user, item and time
    with pytest.raises(UserError, match="dataset.duplicates='keep': it must be one of refuse, drop"):
        load(tmp_path / "a.csv", content, duplicates="keep")


RATED = "customer,sku,time,stars\nann,x1,30,{}\nann,x1,10,{}\nbob,x1,5,{}\n"


@pytest.mark.parametrize(("values", "min_value"), [((5, 1, 4), 4.0), ((1, 0, 1), None)])
def test_negatives_are_kept_as_rows(tmp_path: Path, values: tuple[int, ...], min_value: float | None) -> None:
    changes = {"columns": COLUMNS | {"value": "stars"}, "min_value": min_value, "negatives": "keep"}
    rows = load(tmp_path / "a.csv", RATED.format(*values), **changes).interactions
    assert rows["value"].to_list() == list(values)
    assert rows["label"].to_list() == [True, False, True]


HEAD = "customer,sku,time\n"
MISTAKES = {
    "missing column": ("customer,item,time\na,b,1\n", "dataset.columns.item=sku is not in"),
    "duplicate rows": (HEAD + "a,b,1\na,b,1\n", "data row 1 has a duplicate user, item and time"),
    "nan time": (HEAD + "a,b,1\na,c,NaN\n", "data row 2 has time=nan, which is not seconds"),
    "missing time": (HEAD + "a,b,1\na,c,\n", "data row 2 has time=None"),
    "unreadable time": (HEAD + "a,b,1\na,c,soon\n", "data row 2 has time='soon'"),
    "missing user": (HEAD + "a,b,1\n,c,2\n", "data row 2 has a missing value"),
    "unparsable line": (HEAD + "a,b,1\na,b,2,3,4\n", "cannot be read as csv"),
    "not text": (b"\x00\xff\xfe\x00\x01\n\x80", "a.csv"),
    "empty": ("", "is empty"),
    "header only": (HEAD, "has no rows"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line(name: str, tmp_path: Path) -> None:
    content, expected = MISTAKES[name]
    with pytest.raises(UserError) as caught:
        load(tmp_path / "a.csv", content)
    assert expected in str(caught.value)
    assert "a.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load(tmp_path / "none.csv")
    with pytest.raises(UserError, match="ending must be one of"):
        load(tmp_path / "a.xlsx", "x")
    with pytest.raises(UserError, match="did you mean 'customer'"):
        load(tmp_path / "a.csv", GOOD, columns=COLUMNS | {"user": "custommer"})
    with pytest.raises(UserError, match="needs a value column"):
        load(tmp_path / "a.csv", GOOD, min_value=4.0)
    with pytest.raises(UserError, match="dataset.negatives=keep needs a value column"):
        load(tmp_path / "a.csv", GOOD, negatives="keep")
    with pytest.raises(UserError, match="dataset.negatives='some': it must be one of drop, keep"):
        load(tmp_path / "a.csv", GOOD, negatives="some")
    stars: dict[str, object] = {"columns": COLUMNS | {"value": "stars"}}
    with pytest.raises(UserError, match=r"values other than 0 and 1 \(5.0\): set dataset.min_value"):
        load(tmp_path / "a.csv", RATED.format(1, 5, 0), negatives="keep", **stars)
    with pytest.raises(UserError, match="dataset.min_value=9.0 leaves no positive interaction"):
        load(tmp_path / "a.csv", RATED.format(1, 5, 0), min_value=9.0, **stars)
    with pytest.raises(UserError, match="names 'blurb'"):
        load(tmp_path / "a.csv", GOOD, text="{blurb}")
    with pytest.raises(UserError, match="must be plain"):
        load(tmp_path / "a.csv", GOOD, text="{item_id:.2f}")
    with pytest.raises(UserError, match="is no template"):
        load(tmp_path / "a.csv", GOOD, text="{item_id")
    with pytest.raises(UserError, match="columns.timestamp has no value"):
        load(tmp_path / "a.csv", GOOD, columns=COLUMNS | {"timestamp": None})
    with pytest.raises(UserError, match="stands twice"):
        (tmp_path / "items.csv").write_text("sku\nx1\nx1\n")
        load(tmp_path / "a.csv", GOOD, items=str(tmp_path / "items.csv"))
