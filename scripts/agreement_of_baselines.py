"""Do our EASE and kNN give the scores of RecBole and LensKit on the same matrix? Prints one JSON document.

    .venv/bin/python scripts/agreement_of_baselines.py --peers FOLDER [--golden]

The matrix is the training part of MovieLens-100K, leave-one-out: rated or not. RecBole and LensKit run in environments
of their own, ``FOLDER/recbole`` and ``FOLDER/lenskit``, built with pinned versions if they are not there. Each gets the
matrix as it is and gives back the scores of all users for all items, and its weights. A difference is the largest over
all entries, absolute, or relative to our score where that is above 1. Exit status 1: one is above the tolerance.

``--golden`` takes a matrix of 12 users and 10 items instead and prints the peers' scores, as
tests/reference/golden/baselines.json keeps them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

TOLERANCE = 1e-5
EASE_L2 = 100.0
NEIGHBOURS = ({"k": 100, "shrinkage": 0.0}, {"k": 1682, "shrinkage": 0.0}, {"k": 100, "shrinkage": 10.0})
GOLDEN = {"l2": 2.0, "k": 4}
PINS = {
    "recbole": [
        "recbole==1.2.1", "torch==2.13.0", "numpy==2.4.6", "pandas==3.1.1", "scipy==1.17.1", "scikit-learn==1.9.1",
        "ray==2.6.3",
    ],
    "lenskit": ["lenskit==2025.8.1", "torch==2.13.0", "numpy==2.4.6", "pandas==2.3.3", "scipy==1.17.1"],
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, help="folder of the peers' environments")
    parser.add_argument("--golden", action="store_true", help="print the peers' scores of a small matrix")
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)  # peer, matrix, results: inside its environment
    arguments = parser.parse_args()
    if arguments.work:
        peer, matrix, results = arguments.work
        np.savez(results, **{"recbole": recbole, "lenskit": lenskit}[peer](**np.load(matrix)))
        return
    if arguments.peers is None:
        parser.error("--peers FOLDER is needed")
    if arguments.golden:
        print(json.dumps(golden(arguments.peers)))
        return
    document = agreement(arguments.peers)
    print(json.dumps(document, indent=2))
    sys.exit(document["largest"] > TOLERANCE)


def agreement(peers: Path) -> dict[str, Any]:
    """Largest differences of scores and weights."""
    users, items, size = movielens()
    content = {"users": users, "items": items, "size": np.array(size), "l2": np.array(EASE_L2)}
    content |= {"k": np.array([point["k"] for point in NEIGHBOURS])}
    content |= {"shrinkage": np.array([point["shrinkage"] for point in NEIGHBOURS])}
    theirs = {peer: run(peer, peers, content) for peer in PINS}
    mine = ours(users, items, size)
    differences = {
        f"{name}/{peer}": float((np.abs(mine[name] - found[name]) / np.maximum(np.abs(mine[name]), 1)).max())
        for peer, found in theirs.items()
        for name in sorted(found)
        if name in mine
    }
    return {
        "matrix": {"users": size[0], "items": size[1], "entries": len(users), "from": "ml100k, leave_one_out, train"},
        "versions": {peer: str(found["version"]) for peer, found in theirs.items()},
        "largest_score": {name: float(np.abs(values).max()) for name, values in mine.items()},
        "differences": differences,
        "largest": max(differences.values()),
        "tolerance": TOLERANCE,
    }


def golden(peers: Path) -> dict[str, Any]:
    """Scores of a matrix in which no item has neighbours that tie for the k-th place."""
    generator = np.random.default_rng(4)
    while True:
        matrix = generator.random((12, 10)) < 0.4
        together = matrix.T.astype(float) @ matrix
        cosine = together / (np.sqrt(np.outer(together.diagonal(), together.diagonal())) + 1e-6)
        np.fill_diagonal(cosine, 0.0)
        ordered = -np.sort(-cosine, axis=1)
        kept, next_one = ordered[:, GOLDEN["k"] - 1], ordered[:, GOLDEN["k"]]
        if matrix.any(0).all() and matrix.any(1).all() and (kept - next_one > 1e-3).all():
            break
    users, items = matrix.nonzero()
    content = {"users": users, "items": items, "size": np.array(matrix.shape), "l2": np.array(GOLDEN["l2"])}
    content |= {"k": np.array([GOLDEN["k"]]), "shrinkage": np.array([0.0])}
    made = "scripts/agreement_of_baselines.py --golden"
    document: dict[str, Any] = {"made by": made, "users": users.tolist(), "items": items.tolist(), **GOLDEN}
    for peer in PINS:
        found = run(peer, peers, content)
        scores = {name: np.round(values.astype(float), 7).tolist() for name, values in found.items() if values.ndim}
        document[peer] = {"version": str(found["version"]), **scores}
    return document


def movielens() -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Users and items [n] of the training part, and the size of the matrix."""
    from factorlm.config.build import cache_dir, make_data
    from factorlm.config.compose import compose_config
    from factorlm.data.prepared import load_prepared, prepare

    config = compose_config("train", ["dataset=ml100k", "dataset.min_value=1", "split=leave_one_out"])
    prepared = load_prepared(prepare(*make_data(config), cache_dir(config))[0])
    split = prepared.split
    return split.users["train"], split.items["train"], (len(prepared.tables.users), len(prepared.tables.items))


def ours(users: np.ndarray, items: np.ndarray, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Scores [U, I] by name, and weights [I, I]."""
    import torch

    from factorlm.baselines.base import TrainingData
    from factorlm.baselines.ease import EASE
    from factorlm.baselines.item_knn import ItemKNN
    from factorlm.baselines.user_knn import UserKNN
    from factorlm.scoring import Contexts

    torch.set_num_threads(1)
    order = np.argsort(users, kind="stable")
    ends = torch.from_numpy(np.searchsorted(users[order], np.arange(size[0]), side="right"))
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), ends[:-1]])
    contexts = Contexts(torch.arange(size[0]), starts, ends, torch.from_numpy(items[order]))
    rows = torch.from_numpy(users), torch.from_numpy(items)
    labels, times = torch.ones(len(users), dtype=torch.bool), torch.zeros(len(users), dtype=torch.int64)
    data = TrainingData(*rows, labels, times, *size, 0, None, {}, {})
    models = {"ease": EASE(l2=EASE_L2, dropout=0.0, recency=1.0)}
    models |= {knn_name(**point): ItemKNN(**point, recency=1.0) for point in NEIGHBOURS}
    models |= {f"user_knn k={size[0]} shrinkage=0": UserKNN(k=size[0], shrinkage=0.0, recency=1.0)}
    found = {}
    for name, model in models.items():
        model.fit(data)
        found[name] = model.catalogue(contexts, torch.arange(size[1])).cross(torch.arange(size[0])).numpy()
    found["ease weights"] = models["ease"].weights.T.numpy()
    found["cosine"] = models[knn_name(k=size[1], shrinkage=0.0)].similarity.matrix().toarray()
    return found


def knn_name(k: int, shrinkage: float) -> str:
    return f"item_knn k={k} shrinkage={shrinkage:g}"


def run(peer: str, peers: Path, content: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a peer makes of a matrix, in its own environment."""
    python = environment(peer, peers)
    with tempfile.TemporaryDirectory() as folder:
        matrix, results = Path(folder, "matrix.npz"), Path(folder, "results.npz")
        np.savez(matrix, **content)
        subprocess.run([python, __file__, "--work", peer, matrix, results], check=True, stdout=sys.stderr)
        return dict(np.load(results))


def environment(peer: str, peers: Path) -> Path:
    """Python of a peer's environment, built on the first call."""
    folder = peers / peer
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"building {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PINS[peer]]
        subprocess.run(install, check=True, stdout=sys.stderr)
    return python


def recbole(
    users: np.ndarray, items: np.ndarray, size: np.ndarray, l2: np.ndarray, k: np.ndarray, shrinkage: np.ndarray
) -> dict[str, np.ndarray]:
    """RecBole's own models, given the matrix by a dataset of two methods."""
    import scipy.sparse as sp
    import torch

    torch.set_num_threads(1)
    for name, kind in {"bool8": np.bool_, "float_": np.float64, "complex_": np.complex128, "unicode_": np.str_}.items():
        setattr(np, name, kind)  # names that RecBole and ray use and numpy 2 lacks
    import recbole
    from recbole.data.interaction import Interaction
    from recbole.model.general_recommender.ease import EASE
    from recbole.model.general_recommender.itemknn import ItemKNN

    matrix = sp.csr_matrix((np.ones(len(users), np.float32), (users, items)), shape=tuple(size))

    class Dataset:
        def num(self, field: str) -> int:
            return int(size[("user", "item").index(field)])

        def inter_matrix(self, form: str) -> Any:
            return matrix.asformat(form)

    class Config(dict[str, Any]):
        device = torch.device("cpu")

    config = Config(USER_ID_FIELD="user", ITEM_ID_FIELD="item", NEG_PREFIX="neg_", device=Config.device)
    everyone = Interaction({"user": torch.arange(int(size[0]))})
    ease = EASE(Config(config, reg_weight=float(l2)), Dataset())
    found = {"ease": ease, "ease weights": np.asarray(ease.item_similarity)}
    for neighbours, shrink in zip(k.tolist(), shrinkage.tolist(), strict=True):
        point = Config(config, k=neighbours, knn_method="item", shrink=shrink)
        found[knn_name(neighbours, shrink)] = ItemKNN(point, Dataset())
    point = Config(config, k=int(size[0]), knn_method="user")
    found[f"user_knn k={size[0]} shrinkage=0"] = ItemKNN(
        point, Dataset()
    )  # with all neighbours, for ties may fall otherwise
    for name, model in found.items():
        if isinstance(model, torch.nn.Module):
            found[name] = np.asarray(model.full_sort_predict(everyone)).reshape(tuple(size))
    return {**found, "version": np.array(recbole.__version__)}


def lenskit(
    users: np.ndarray, items: np.ndarray, size: np.ndarray, l2: np.ndarray, k: np.ndarray, shrinkage: np.ndarray
) -> dict[str, np.ndarray]:
    """LensKit's EASE and the similarities of its item-kNN; items without an entry, which it leaves out, count 0."""
    import lenskit as package
    import pandas as pd
    from lenskit.data import ItemList, RecQuery, from_interactions_df
    from lenskit.knn import EASEScorer, ItemKNNScorer

    data = from_interactions_df(pd.DataFrame({"user_id": users, "item_id": items}))
    scorer = EASEScorer(regularization=float(l2))
    scorer.train(data)
    scores = np.zeros(tuple(size), np.float32)
    everything = ItemList(item_ids=np.arange(size[1]))
    for user in np.unique(users):
        query = RecQuery(user_id=int(user), user_items=ItemList(item_ids=items[users == user]))
        scores[user] = np.nan_to_num(scorer(query, everything).scores())
    known = scorer.items.ids().astype(int)
    weights, cosine = np.zeros((size[1], size[1]), np.float32), np.zeros((size[1], size[1]), np.float32)
    weights[np.ix_(known, known)] = scorer.weights
    neighbours = ItemKNNScorer(max_nbrs=int(size[1]), feedback="implicit")
    neighbours.train(data)
    known = neighbours.items.ids().astype(int)
    cosine[np.ix_(known, known)] = neighbours.sim_matrix.to_scipy().toarray()
    return {"ease": scores, "ease weights": weights, "cosine": cosine, "version": np.array(package.__version__)}


if __name__ == "__main__":
    main()
