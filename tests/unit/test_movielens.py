"""The readers of both origins, on films of our own."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from factorlm.assets import Mirror
from factorlm.data.sources.movielens import MovieLens
from factorlm.data.tables import Frames, Negatives

FLAGS = {"Comedy": "0|0|0|0|0|1" + "|0" * 13, "Drama": "0|" * 8 + "1" + "|0" * 10}


def load(folder: Path, name: str, negatives: Negatives = "drop") -> Frames:
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    return MovieLens(name, [Mirror(f"file://{folder}", files)], 4.0, negatives, "{title} ({year}): {genres}").load(
        folder
    )


def recbole_100k(folder: Path) -> None:
    (folder / "ml-100k.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t10\t5\t100\n2\t20\t3\t90\n2\t10\t4\t80\n"
    )
    (folder / "ml-100k.item").write_text(
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "10\tUp\t1990\tComedy Drama\n20\tHat\t1991\tDrama\n"
    )
    (folder / "ml-100k.user").write_text(
        "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n1\t24\tM\twriter\t00001\n2\t30\tF\tother\t00002\n"
    )


def grouplens_100k(folder: Path) -> None:
    both = FLAGS["Comedy"].split("|")[:8] + FLAGS["Drama"].split("|")[8:]
    with zipfile.ZipFile(folder / "ml-100k.zip", "w") as archive:
        archive.writestr("ml-100k/u.data", "1\t10\t5\t100\n2\t20\t3\t90\n2\t10\t4\t80\n")
        archive.writestr(
            "ml-100k/u.item",
            f"10|Up (1990)|01-Jan-1990||http://x|{'|'.join(both)}\n20|Hat (1991)|||u|{FLAGS['Drama']}\n",
        )
        archive.writestr("ml-100k/u.user", "1|24|M|writer|00001\n2|30|F|other|00002\n")


def recbole_1m(folder: Path) -> None:
    (folder / "ml-1m.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        "1m_1\tUp (1990)\t5\t100\n1m_2\tHat (1991)\t3\t90\n1m_2\tUp (1990)\t4\t80\n"
    )
    (folder / "ml-1m.item").write_text(
        "item_id:token\tmovie_title:token\trelease_year:float\tgenre:token\n"
        "Up (1990)\tUp\t1990\tComedy Drama\nHat (1991)\tHat\t1991\tDrama\n"
    )
    (folder / "ml-1m.user").write_text(
        "user_id:token\tage:float\tgender:token\toccupation:float\tzip_code:token\n1m_1\t1\tF\t10\t1\n1m_2\t1\tM\t1\t2\n"
    )


def grouplens_1m(folder: Path) -> None:
    with zipfile.ZipFile(folder / "ml-1m.zip", "w") as archive:
        archive.writestr("ml-1m/ratings.dat", "1::10::5::100\n2::20::3::90\n2::10::4::80\n")
        archive.writestr("ml-1m/movies.dat", "10::Up (1990)::Comedy|Drama\n20::Hat (1991)::Drama\n")
        archive.writestr("ml-1m/users.dat", "1::F::1::10::48067\n2::M::56::16::70072\n")


@pytest.mark.parametrize(
    ("name", "write"),
    [("ml-100k", recbole_100k), ("ml-100k", grouplens_100k), ("ml-1m", recbole_1m), ("ml-1m", grouplens_1m)],
)
def test_every_origin_reads_alike(tmp_path: Path, name: str, write) -> None:
    write(tmp_path)
    frames = load(tmp_path, name)
    assert frames.interactions["user_id"].to_list() == [1, 2]
    assert frames.interactions["timestamp"].to_list() == [100, 80]
    assert frames.users["user_id"].to_list() == [1, 2]
    items = frames.items.sort("title", descending=True)
    assert items["title"].to_list() == ["Up", "Hat"]
    assert items["year"].to_list() == [1990, 1991]
    assert items["genres"].to_list() == [["Comedy", "Drama"], ["Drama"]]
    assert items["text"].to_list() == ["Up (1990): Comedy, Drama", "Hat (1991): Drama"]
    kept = load(tmp_path, name, "keep").interactions
    assert kept.select("user_id", "timestamp", "value", "label").rows() == [
        (1, 100, 5.0, True), (2, 90, 3.0, False), (2, 80, 4.0, True)
    ]  # fmt: skip
