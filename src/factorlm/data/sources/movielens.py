"""MovieLens-100K and 1M: out of a wheel, or as GroupLens publishes them.

Source: F. M. Harper and J. A. Konstan, The MovieLens Datasets: History and Context, TiiS 5(4), 2015. For research, no
redistribution. The two origins differ in a few titles, so their content has different fingerprints.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import polars as pl

from factorlm.assets import Mirror, fetch
from factorlm.data.tables import Frames, Negatives, canonical

GENRES_100K = """unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy Film-Noir Horror
Musical Mystery Romance Sci-Fi Thriller War Western""".split()  # noqa: SIM905


@dataclass(frozen=True)
class MovieLens:
    """MovieLens ratings with title, year and genres of each film and age, gender and occupation of each user.

    Args:
        name: ``ml-100k`` or ``ml-1m``: the prefix of the files.
        mirrors: where the files are; see `factorlm.assets`.
        min_value: stars from which a rating is a positive interaction; None: all are.
        negatives: ``drop`` the other ratings, or ``keep`` them as rows of label 0.
        text: template of the item text over ``title``, ``year`` and ``genres``.
    """

    name: str
    mirrors: Sequence[Mirror]
    min_value: float | None
    negatives: Negatives
    text: str | None

    def identity(self) -> object:
        """The checksums of the files, which ratings are rows, and the template."""
        return [self.name, [mirror.identity for mirror in self.mirrors], self.min_value, self.negatives, self.text]

    def load(self, cache_dir: Path) -> Frames:
        """Fetch and read the ratings."""
        folder = fetch(self.name, self.mirrors, cache_dir)
        archive = folder / f"{self.name}.zip"
        if not archive.exists():
            tables = _read_recbole(folder, self.name)
        elif self.name == "ml-100k":
            tables = _read_grouplens_100k(archive)
        else:
            tables = _read_grouplens_1m(archive)
        return canonical(*tables, min_value=self.min_value, negatives=self.negatives, text=self.text, source=self.name)


_Tables: TypeAlias = tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]


def _typed_tsv(path: Path) -> pl.DataFrame:
    """Read a RecBole atomic file, whose header is ``name:type`` and whose columns are separated by tabs."""
    raw = pl.read_csv(path, separator="\t", quote_char=None, infer_schema=False)
    return raw.rename({column: column.partition(":")[0] for column in raw.columns})


def _user_number() -> pl.Expr:
    return pl.col("user_id").str.strip_prefix("1m_").cast(pl.Int64)


def _read_recbole(folder: Path, name: str) -> _Tables:
    ratings = _typed_tsv(folder / f"{name}.inter")
    items = _typed_tsv(folder / f"{name}.item").rename({"movie_title": "title", "release_year": "year"})
    items = items.rename({"class": "genres"} if "class" in items.columns else {"genre": "genres"})
    users = _typed_tsv(folder / f"{name}.user").with_columns(_user_number())
    ratings = ratings.select(
        _user_number(),
        "item_id",
        timestamp=pl.col("timestamp").cast(pl.Int64),
        value=pl.col("rating").cast(pl.Float32),
    )
    if name == "ml-100k":  # in this copy of ML-1M the item key is the title with its year
        ratings = ratings.with_columns(pl.col("item_id").cast(pl.Int64))
        items = items.with_columns(pl.col("item_id").cast(pl.Int64))
    items = items.with_columns(
        year=pl.col("year").cast(pl.Float64, strict=False).cast(pl.Int64),
        genres=pl.col("genres").str.split(" "),
    )
    return ratings, users, items.select("item_id", "title", "year", "genres")


def _lines(archive: zipfile.ZipFile, member: str) -> list[str]:
    return archive.read(member).decode("latin-1").splitlines()


def _titled(items: pl.DataFrame) -> pl.DataFrame:
    year = pl.col("title").str.extract(r"\((\d{4})\)\s*$").cast(pl.Int64)
    return items.with_columns(title=pl.col("title").str.replace(r"\s*\(\d{4}\)\s*$", ""), year=year).select(
        "item_id", "title", "year", "genres"
    )


def _read_grouplens_100k(path: Path) -> _Tables:
    with zipfile.ZipFile(path) as archive:
        ratings = [[int(value) for value in line.split("\t")] for line in _lines(archive, "ml-100k/u.data")]
        films = [line.split("|") for line in _lines(archive, "ml-100k/u.item") if line]
        people = [line.split("|") for line in _lines(archive, "ml-100k/u.user")]
    items = {
        "item_id": [int(film[0]) for film in films],
        "title": [film[1] for film in films],
        "genres": [[g for g, flag in zip(GENRES_100K, film[5:], strict=True) if flag == "1"] for film in films],
    }
    users = pl.DataFrame(people, schema=["user_id", "age", "gender", "occupation", "zip_code"], orient="row")
    return (
        pl.DataFrame(ratings, schema=["user_id", "item_id", "value", "timestamp"], orient="row"),
        users.with_columns(pl.col("user_id").cast(pl.Int64)),
        _titled(pl.DataFrame(items)),
    )


def _read_grouplens_1m(path: Path) -> _Tables:
    with zipfile.ZipFile(path) as archive:
        ratings = [[int(value) for value in line.split("::")] for line in _lines(archive, "ml-1m/ratings.dat")]
        films = [line.split("::") for line in _lines(archive, "ml-1m/movies.dat")]
        people = [line.split("::") for line in _lines(archive, "ml-1m/users.dat")]
    items = {
        "item_id": [int(film[0]) for film in films],
        "title": [film[1] for film in films],
        "genres": [film[2].split("|") for film in films],
    }
    users = pl.DataFrame(people, schema=["user_id", "gender", "age", "occupation", "zip_code"], orient="row")
    return (
        pl.DataFrame(ratings, schema=["user_id", "item_id", "value", "timestamp"], orient="row"),
        users.with_columns(pl.col("user_id").cast(pl.Int64)),
        _titled(pl.DataFrame(items)),
    )
