"""A dataset with planted structure, for tests and for trying things out without a download."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl

from factorlm.data.tables import Frames, Negatives, canonical
from factorlm.errors import UserError

TOPICS = ("space", "cooking", "horses", "crime", "music", "gardens", "robots", "sailing")


@dataclass(frozen=True)
class Synthetic:
    """Users who love one of eight topics and items about one topic, whose text says which.

    Four in five interactions of a user are with items of the loved topic; items also differ in popularity. So ids
    explain warm items, and for cold items only text, topic or price helps.

    Args:
        num_users: users.
        num_items: items.
        interactions_per_user: interactions of each user, without repeats.
        seed: of the generator.
        negatives: ``drop``, or ``keep``: for each interaction another item, at a time of its own, as a row of label 0.
        text: template of the item text over ``title``, ``topic`` and ``price``.
    """

    num_users: int
    num_items: int
    interactions_per_user: int
    seed: int
    negatives: Negatives
    text: str | None

    def identity(self) -> object:
        """The arguments."""
        return ["synthetic", asdict(self)]

    def load(self, cache_dir: Path) -> Frames:
        """Generate the tables."""
        if self.negatives == "keep" and self.num_items < 2 * self.interactions_per_user:
            raise UserError(
                f"dataset.num_items={self.num_items}: negatives=keep needs two for each interaction of a user"
            )
        generator, others = np.random.default_rng(self.seed), np.random.default_rng([self.seed, 1])
        topic_I = np.arange(self.num_items) % len(TOPICS)
        popularity_I = generator.gamma(1.0, size=self.num_items) + 0.1
        loved_U = generator.integers(len(TOPICS), size=self.num_users)
        rows = []
        for user, loved in enumerate(loved_U):
            weight_I = popularity_I * np.where(topic_I == loved, 4.0 * (len(TOPICS) - 1), 1.0)
            chosen = generator.choice(
                self.num_items, size=self.interactions_per_user, replace=False, p=weight_I / weight_I.sum()
            )
            times = np.sort(generator.integers(0, 10**6, size=len(chosen)))
            rows += [(f"u{user}", f"i{item}", int(time), 1.0) for item, time in zip(chosen, times, strict=True)]
            if self.negatives == "keep":
                chosen = others.permutation(np.setdiff1d(np.arange(self.num_items), chosen))[: len(chosen)]
                times = np.sort(others.integers(0, 10**6, size=len(chosen)))
                rows += [(f"u{user}", f"i{item}", int(time), 0.0) for item, time in zip(chosen, times, strict=True)]
        items = pl.DataFrame(
            {
                "item_id": [f"i{item}" for item in range(self.num_items)],
                "title": [f"A book about {TOPICS[topic]}" for topic in topic_I],
                "topic": [TOPICS[topic] for topic in topic_I],
                "tags": [[TOPICS[topic], "book"] for topic in topic_I],
                "price": [5.0 + 2.0 * int(topic) for topic in topic_I],
            }
        )
        users = pl.DataFrame({"user_id": [f"u{user}" for user in range(self.num_users)]})
        interactions = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp", "value"], orient="row")
        return canonical(
            interactions, users, items, min_value=None, negatives=self.negatives, text=self.text, source="synthetic"
        )
