"""Search spaces: overrides in Hydra's grammar as optuna's distributions, and points as overrides again."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Transformer
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from factorlm.errors import UserError

Space = dict[str, BaseDistribution]
Point = dict[str, Any]  # a value by key; what is neither a number nor a truth value is written in Hydra's grammar


def make_space(overrides: Iterable[Override]) -> Space:
    """The distribution of each key.

    Args:
        overrides: as ``a=1,2``, ``a=range(1,10)``, ``a=interval(0,1)`` or ``a=tag(log,interval(1e-4,1))``.

    Raises:
        UserError: a range is empty.
    """
    return {override.get_key_element(): _distribution(override) for override in overrides}


def _distribution(override: Override) -> BaseDistribution:
    value = override.value()
    if isinstance(value, IntervalSweep):
        assert value.start is not None
        assert value.end is not None
        low, high, log = value.start, value.end, "log" in value.tags
        if not (low <= high and (low > 0 or not log)):
            raise UserError(f"{override.input_line}: an interval goes from small to large, above 0 where it is log")
        whole = isinstance(low, int) and isinstance(high, int)
        return IntDistribution(int(low), int(high), log=log) if whole else FloatDistribution(low, high, log=log)
    choices = [written(choice) for choice in override.sweep_iterator()]
    if not choices:
        raise UserError(f"{override.input_line}: it holds no value")
    if isinstance(value, RangeSweep):
        low, high, step = min(choices), max(choices), abs(value.step)
        whole = isinstance(low, int)
        return IntDistribution(low, high, step=int(step)) if whole else FloatDistribution(low, high, step=step)
    return CategoricalDistribution(choices)


def written(value: Any) -> Any:
    """A value as a point holds it."""
    return value if isinstance(value, bool | int | float) else Transformer.str(value)


def overrides(point: Mapping[str, Any]) -> list[str]:
    """A point as overrides."""
    return [f"{key}={value}" for key, value in point.items()]


def grid(space: Space) -> list[Point]:
    """Every point of a space, the last key moving fastest.

    Raises:
        UserError: a key has too many values to try each.
    """
    columns = [_values(key, distribution) for key, distribution in space.items()]
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*columns)]


def _values(key: str, distribution: BaseDistribution) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    if distribution.step is None:
        raise UserError(f"{key}: sampler=grid tries every value: name them as a,b,c or range(a,b), or set sampler=tpe")
    count = round((distribution.high - distribution.low) / distribution.step)
    return [short(distribution.low + i * distribution.step) for i in range(count + 1)]


def short(value: Any) -> Any:
    """A float of six digits, so that a point can be read and repeated."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def shortened(point: Point, space: Space) -> Point:
    """A point with short floats that still lie in the space."""
    fitted = {}
    for key, value in point.items():
        distribution = space[key]
        if isinstance(distribution, FloatDistribution):
            value = min(max(short(value), distribution.low), distribution.high)
        fitted[key] = value
    return fitted


def contains(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a key may have a value."""
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except ValueError:
        return False


def describe(distribution: BaseDistribution) -> dict[str, Any]:
    """A distribution as plain data: ``choices``, or ``low``, ``high``, ``step`` and ``log``."""
    names = ("choices", "low", "high", "step", "log")
    found = {name: getattr(distribution, name) for name in names if hasattr(distribution, name)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}
