"""Who lives in a unit of the map: its prompts, their categories, and how the model refuses them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from sombrero.directions.codebook import Codebook
from sombrero.directions.salience import mean_log_odds
from sombrero.errors import UsageError
from sombrero.records import Prompt, RefusalMap, UnitProfile


def unit_profiles(
    source: Codebook | RefusalMap,
    prompts: Sequence[Prompt],
    state: int,
    log_odds: Mapping[str, float] | None = None,
) -> tuple[UnitProfile, ...]:
    """A profile of every unit at one state index, in the order of the units: together they hold each prompt once.

    ``prompts`` are those that the map was trained on, more do no harm; ``log_odds`` their refusal log-odds by id.
    Categories of equal size stand in alphabetical order.

    Raises UsageError for a state index that the map does not have, or a training prompt that is not among ``prompts``.
    """
    codebook = source if isinstance(source, Codebook) else Codebook.of_map(source)
    n_states, n_units = codebook.points.shape[:2]
    if state not in range(n_states):
        raise UsageError(f"there is no state index {state} in a map of {n_states}; give one of 0..{n_states - 1}")
    categories = {prompt.id: prompt.category for prompt in prompts}
    missing = [name for name in codebook.train_ids if name not in categories]
    if missing:
        raise UsageError(
            f"{len(missing)} prompts that the map was trained on are not among those given, such as {missing[0]!r}; "
            "give the map prompts of the same run"
        )
    best = codebook.best_units[state]
    means = mean_log_odds(best[None], n_units, codebook.train_ids, log_odds or {})[0].tolist()
    found = []
    for unit in range(n_units):
        ids = tuple(codebook.train_ids[row] for row in (best == unit).nonzero().flatten().tolist())
        counts = Counter(categories[name] for name in ids)
        ordered = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
        mean = None if means[unit] != means[unit] else means[unit]
        found.append(UnitProfile(state, unit, ids, ordered, mean))
    return tuple(found)
