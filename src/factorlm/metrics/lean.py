"""Import torchmetrics without what only its audio, text and plots need: that is two seconds of every start.

Who needs those (BERTScore, for example) imports torchmetrics before factorlm.
"""

from __future__ import annotations

import sys

from lightning_utilities.core.imports import RequirementCache, package_available

SLOW = ("matplotlib", "scipy", "transformers")


def import_torchmetrics() -> None:
    """Import torchmetrics as if the slow packages were not installed; others import them as ever."""
    available = RequirementCache.__bool__
    hidden = [name for name in SLOW if name not in sys.modules]

    def unless_hidden(cache: RequirementCache) -> bool:
        return not str(cache.requirement).startswith(tuple(hidden)) and available(cache)

    RequirementCache.__bool__ = unless_hidden  # type: ignore[assignment, method-assign]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        import torchmetrics  # noqa: F401
    finally:
        RequirementCache.__bool__ = available  # type: ignore[method-assign]
        for name in hidden:
            del sys.modules[name]
        package_available.cache_clear()
