"""What stands beside a map in a run folder: controls, quality, manifold, profiles of units. Random, but of a kind."""

from __future__ import annotations

import torch

from sombrero.records import DirectionSet, Manifold, MapQuality, RefusalMap, UnitProfile

BEST_STATE = 8
CATEGORIES = ("fraud", "hate speech", "malware", "self-harm", "privacy", "weapons", "drugs", "theft", "defamation")
CANDIDATES = (1, 2, 3, 4, 6, 9, 12, 16)


def direction_sets(found: RefusalMap) -> dict[str, DirectionSet]:
    """Directions ordered by hits; the single direction separates best at state 8."""
    generator = torch.Generator().manual_seed(8)
    order = torch.argsort(found.hit_counts, dim=1, descending=True, stable=True)
    n_states, n_units = order.shape
    bump = separation(n_states, 0.99)
    hits = torch.gather(found.hit_counts, 1, order)
    vectors = torch.gather(found.codebook, 1, order[..., None].expand_as(found.codebook))
    auroc = (bump[:, None] - 0.2 * torch.rand(n_states, n_units, generator=generator)).clamp(0, 1)
    single = found.harmful_mean[:, None, :]
    zeros = torch.zeros(n_states, 1, dtype=torch.int64)
    som = direction_set("som", vectors, order, hits, auroc, found.harmless_mean)
    n_train = len(found.train_ids)
    return {
        "som": som,
        "single": direction_set("single", single, zeros, zeros + n_train, bump[:, None], som.harmless_mean),
    }


def separation(n_states: int, most: float) -> torch.Tensor:
    """An AUROC that is largest at the best state, and that of chance far from it."""
    return (most - 0.006 * (torch.arange(n_states) - float(BEST_STATE)) ** 2).clamp_min(0.5)


def direction_set(
    method: str,
    vectors: torch.Tensor,
    units: torch.Tensor,
    hits: torch.Tensor,
    auroc: torch.Tensor,
    harmless_mean: torch.Tensor,
) -> DirectionSet:
    """With an interval that is narrower near 1, and log-odds that go with the AUROC; none for a unit without hits."""
    half = 0.02 + 0.15 * (1 - auroc)
    return DirectionSet(
        method=method,
        vectors=vectors,
        units=units,
        hit_counts=hits,
        auroc=auroc,
        auroc_low=(auroc - half).clamp(0, 1),
        auroc_high=(auroc + half).clamp(0, 1),
        log_odds=torch.where(hits > 0, 12 * (auroc - 0.8), torch.nan),
        harmless_mean=harmless_mean,
    )


def control_sets(found: RefusalMap, n_directions: int = 4) -> dict[str, DirectionSet]:
    """The controls of the issue: three that nearly work, and the null, which does not."""
    generator = torch.Generator().manual_seed(9)
    n_states, _, width = found.codebook.shape
    bump = separation(n_states, 0.98)[:, None]
    units = torch.arange(n_directions).expand(n_states, -1)
    hits = torch.tensor([40, 30, 30, 20][:n_directions]).expand(n_states, -1)
    sets = {}
    for name, loss in {"k-means": 0.05, "pca": 0.15, "random": 0.2, "shuffled": None}.items():
        noise = torch.rand(n_states, n_directions, generator=generator)
        auroc = 0.42 + 0.16 * noise if loss is None else (bump - loss * noise).clamp(0, 1)
        vectors = torch.randn(n_states, n_directions, width, generator=generator)
        vectors = vectors if loss is None else vectors + found.harmful_mean[:, None]
        sets[name] = direction_set(name, vectors, units, hits, auroc, found.harmless_mean)
    return sets


def map_quality(found: RefusalMap) -> MapQuality:
    """One unit in the first layers, three around the best; harmless samples support one or two everywhere."""
    n_states = len(found.harmless_mean)
    sizes = torch.tensor(CANDIDATES)
    chosen = torch.where((torch.arange(n_states) - BEST_STATE).abs() < 4, 3, 1)
    share = torch.linspace(0.2, 0.9, n_states)
    falling = found.quantization_error[:, None] * (0.55 + 0.45 / sizes.sqrt() + 0.004 * sizes)
    return MapQuality(
        trustworthiness=0.7 + 0.2 * share,
        continuity=0.75 + 0.2 * share,
        rand=share,
        cosine=0.5 + share / 2,
        candidates=sizes,
        held_out_error=falling,
        reference_error=falling + 0.5,
        strength=torch.exp(-(sizes - 1.0)[None] / (2.0 * chosen[:, None])).clamp(0, 1),
        chosen=chosen,
        chosen_low=(chosen - 1).clamp_min(1),
        chosen_high=chosen + 1,
        control=torch.where(torch.arange(n_states) % 4 == 0, 2, 1),
    )


def manifold(found: RefusalMap, n_harmless: int = 90) -> Manifold:
    """Harmless states around the origin, harmful ones around their units."""
    generator = torch.Generator().manual_seed(10)
    n_states, n_train = found.best_units.shape
    n_units = found.n_rows * found.n_columns
    lattice = torch.tensor([[unit % found.n_columns, unit // found.n_columns] for unit in range(n_units)]).float()
    growth = torch.linspace(0.2, 3.0, n_states)[:, None, None]
    codebook = growth * (lattice + 1.5 + 0.3 * torch.randn(n_states, n_units, 2, generator=generator))
    home = torch.gather(codebook, 1, found.best_units[..., None].expand(-1, -1, 2))
    return Manifold(
        harmful=home + 0.4 * growth * torch.randn(n_states, n_train, 2, generator=generator),
        harmless=growth * torch.randn(n_states, n_harmless, 2, generator=generator),
        codebook=codebook,
        explained=torch.tensor([0.43, 0.17]).expand(n_states, 2).contiguous(),
    )


def unit_profiles(found: RefusalMap, names: tuple[str, ...] = CATEGORIES, state: int = BEST_STATE) -> list[UnitProfile]:
    """Who lives in each unit of one state index: neighbouring prompts are of one category, a third of any."""
    profiles = []
    for unit in range(found.n_rows * found.n_columns):
        rows = torch.nonzero(found.best_units[state] == unit).flatten().tolist()
        counts: dict[str, int] = {}
        for row in rows:
            name = names[(row if row % 3 == 0 else unit // 2) % len(names)]
            counts[name] = counts.get(name, 0) + 1
        ordered = dict(sorted(counts.items(), key=lambda item: -item[1]))
        ids = tuple(found.train_ids[row] for row in rows)
        profiles.append(UnitProfile(state, unit, ids, ordered, 0.3 * len(rows) - 1.0 if rows else None))
    return profiles
