"""The numbers of a study's committed record against those of its runs made anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

DEVIATIONS = 6.0  # so far off may be what training on other hardware made, see `tolerances`
ROUNDING = 1e-6  # relative, of what training has no part in
COUNTS = ("parameters", "training_rows", "fingerprint")  # of a run; no hardware changes them
OF_THE_MACHINE = ("cost", "pareto", "runs", "test_evaluations")  # what a comparison says beside results


@dataclass(frozen=True)
class Number:
    """A recorded number and the one found.

    Attributes:
        protocol, arm, name: what it is; the seed is part of the name.
        recorded, found: its values; found is None where there is none now.
        tolerance: by which they may differ.
    """

    protocol: str
    arm: str
    name: str
    recorded: Any
    found: Any
    tolerance: float = 0.0

    @property
    def equal(self) -> bool:
        """Whether it is the same to the last bit."""
        return type(self.recorded) is type(self.found) and bool(self.recorded == self.found)

    @property
    def reproduced(self) -> bool:
        """Whether it is the same, or no farther off than it may be."""
        if self.equal or None in (self.recorded, self.found) or isinstance(self.recorded, str):
            return self.equal
        return bool(abs(self.recorded - self.found) <= self.tolerance)

    @property
    def deviations(self) -> float:
        """How far off it is, in deviations over seeds; 0 where no tolerance was needed."""
        known = self.tolerance and isinstance(self.found, (int, float))
        return DEVIATIONS * abs(self.recorded - self.found) / self.tolerance if known else 0.0


def same_machine(one: Mapping[str, Any], two: Mapping[str, Any]) -> bool:
    """Whether the hardware of two records is of one class: processor model and versions; the second may know more."""
    versions = one["versions"].items() <= two["versions"].items()
    return bool(one["hardware"]["cpu"] == two["hardware"]["cpu"] and versions)


def tolerances(recorded: Mapping[str, Any]) -> dict[str, float]:
    """By how much each metric may differ on other hardware.

    There a sum may round otherwise, and training may drift apart until a run is like one of another seed. So the
    measure is the deviation over seeds: six times the root mean square over the arms that have one. If runs on other
    hardware were as different as other seeds, one number in about 600 would be farther off (t with the 10 degrees of
    freedom of five arms with three seeds).
    """
    deviations: dict[str, list[float]] = {}
    for arm in recorded["arms"].values():
        for name, value in arm["metrics"].items():
            if value["sd"]:
                deviations.setdefault(name, []).append(value["sd"])
    return {name: DEVIATIONS * float(np.sqrt(np.mean(np.square(found)))) for name, found in deviations.items()}


def run_numbers(
    protocol: str, recorded: Mapping[str, Any], run: Mapping[str, Any], record: Mapping[str, Any]
) -> list[Number]:
    """The numbers of one recorded run.

    Args:
        protocol: its name.
        recorded: the committed record of the protocol.
        run: one of its runs.
        record: of the same run made anew.
    """
    place = protocol, run["arm"]
    numbers = [
        Number(*place, f"{name} seed {run['seed']}", value, dict(_leaves(record.get(key), key)).get(name))
        for key in COUNTS
        for name, value in _leaves(run.get(key), key)
    ]
    exact = same_machine(run, record)
    moved = {name: value["sd"] for name, value in recorded["arms"][run["arm"]]["metrics"].items()}
    allowed = tolerances(recorded)
    for name, value in run["metrics"].items():
        rounding = ROUNDING * abs(value or 0.0)
        tolerance = 0.0 if exact else max(rounding, allowed.get(name, 0.0) if moved.get(name) != 0 else 0.0)
        found = record["metrics"].get(name)
        numbers.append(Number(*place, f"{name} seed {run['seed']}", value, found, tolerance))
    return numbers


def comparison_numbers(protocol: str, recorded: Mapping[str, Any], comparison: Mapping[str, Any]) -> list[Number]:
    """The numbers of a protocol's comparison, which are equal to the last bit if those of its runs are."""
    numbers = []
    for arm, content in recorded["arms"].items():
        found = dict(_leaves(comparison["arms"][arm], ""))
        kept = {key: value for key, value in content.items() if key not in OF_THE_MACHINE}
        numbers += [Number(protocol, arm, name, value, found.get(name)) for name, value in _leaves(kept, "")]
    return numbers


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Numbers and names in plain data, by the way to them."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield from _leaves(one, f"{name} {key}".strip())
    elif isinstance(value, list):
        yield from _leaves({str(place): one for place, one in enumerate(value)}, name)
    elif value is not None:
        yield name, value
