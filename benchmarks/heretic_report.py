"""What the two tools' trials and scores say of each other: ratios of a seed, medians over seeds, verdicts in words.

Pure functions of the figures. A seed on which a goal was not met at all counts as zero in the median, never as missing:
leaving it out would let one lucky seed stand for three.
"""

from __future__ import annotations

import statistics
from typing import Any

from fronts import Trial, chosen, front, kl_at, seconds_to_cover, seconds_to_match

GOALS = {"kl": 4.0, "wall": 10.0, "generated": 3.0, "screened": 15.0}
TITLES = {
    "kl": "KL at matched refusals",
    "wall": "wall time until its front is covered",
    "wall_of_chosen": "wall time until its chosen trial is covered",
    "generated": "seconds a generated trial",
    "screened": "seconds a screened trial",
}
TOOLS = ("heretic", "sombrero")


def unpack(packed: dict[str, Any]) -> list[Trial]:
    """A tool's trials, from JSON."""
    return [Trial(**trial) for trial in packed["trials"]]


def ratios(ours: list[Trial], theirs: list[Trial], allowed: int) -> dict[str, Any]:
    """Above 1 in our favour; 0 where we never got there; None where nothing was measured.

    matched: the refusals at which KLs are compared, as few as both fronts reach. Where our own front stops above
    ``allowed`` the KL ratio is 0; where only the peer's does, it is compared at the peer's fewest.
    """
    fewest = {"theirs": front(theirs)[0].refusals or 0, "ours": front(ours)[0].refusals or 0}
    matched = max(allowed, *fewest.values())
    mine, other = kl_at(ours, matched), kl_at(theirs, matched)
    total = max(trial.at for trial in theirs)
    covered = seconds_to_cover(ours, theirs)
    chosen_at = seconds_to_match(ours, chosen(theirs, allowed))
    reached = [seconds_to_match(ours, point) for point in front(theirs)]
    of_theirs = statistics.median(trial.seconds for trial in theirs)
    generated = statistics.median(trial.seconds for trial in ours if trial.refusals is not None)
    screened = [trial.seconds for trial in ours if trial.refusals is None]
    of_screened = statistics.median(screened) if screened else None
    kl = other / mine if mine and other is not None else None
    return {
        "matched": matched, "fewest": fewest, "kl_ours": mine, "kl_theirs": other,
        "seconds_to_cover": covered, "seconds_to_match_chosen": chosen_at,
        "covered": {"trials": sum(seconds is not None for seconds in reached), "of": len(reached)},
        "seconds": {"theirs": of_theirs, "generated": generated, "screened": of_screened},
        "kl": 0.0 if fewest["ours"] > allowed else kl,
        "wall": total / covered if covered else 0.0,
        "wall_of_chosen": total / chosen_at if chosen_at else 0.0,
        "generated": of_theirs / generated,
        "screened": of_theirs / of_screened if of_screened else None,
    }  # fmt: skip


def medians(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each ratio over the seeds; how many seeds measured it, and on how many it was 0, never reached."""
    found: dict[str, Any] = {}
    for name in TITLES:
        values = [run["ratios"][name] for run in runs if run["ratios"][name] is not None]
        median = statistics.median(values) if values else None
        found[name] = {"median": median, "seeds": len(values), "never": sum(value == 0 for value in values)}
    return found


def verdict(name: str, found: dict[str, Any], n_seeds: int) -> str:
    """One line: the median, its goal if it has one, and the seeds behind it."""
    if found["median"] is None:
        return "not measured"
    words = f"{found['median']:.2f}"
    if name in GOALS:
        reached = found["median"] >= GOALS[name] and found["seeds"] == n_seeds
        words += f" (goal {GOALS[name]:.0f}: {'reached' if reached else 'MISSED'})"
    if found["seeds"] < n_seeds:
        words += f", measured on {found['seeds']} of {n_seeds} seeds"
    if found["never"]:
        words += f", never on {found['never']} of {n_seeds} seeds"
    return words


def print_run(run: dict[str, Any]) -> None:
    """Both fronts, the ratios, and the scorer's figures."""
    print(f"\nseed {run['seed']}: fronts, refusals (of the search's harmful prompts) at first-token KL")
    for name in TOOLS:
        trials, seconds = unpack(run[name]), run[name]["facts"]["seconds"]
        points = ", ".join(f"{t.refusals} at {t.kl:.3f}" for t in front(trials))
        counted = sum(t.refusals is not None for t in trials)
        print(f"  {name:9s} {points}   ({counted} generated of {len(trials)} trials, {seconds:.0f} s)")
    r = run["ratios"]
    print(f"  KL at {r['matched']} refusals: heretic {r['kl_theirs']:.3f}, sombrero {r['kl_ours']:.3f}")
    for name, count in (("heretic", r["fewest"]["theirs"]), ("sombrero", r["fewest"]["ours"])):
        if count > run["allowed"]:
            print(f"  {name} reached {count} refusals at best, not the {run['allowed']} allowed")
    each = {name: "none" if value is None else f"{value:.1f}" for name, value in r["seconds"].items()}
    print(f"  seconds a trial: heretic {each['theirs']}, sombrero {each['generated']}, screened {each['screened']}")
    ratio = r["wall_of_chosen"]
    when = f"in 1/{ratio:.1f} of its whole search" if ratio else "never"
    covered = f"{r['covered']['trials']} of {r['covered']['of']} trials of heretic's front"
    print(f"  sombrero is at least as good as {covered}, and as the one that heretic chose {when}")
    for split in ("search", "unseen"):
        print_scores(split, run["scores"])


def print_scores(split: str, scores: dict[str, Any]) -> None:
    """The one scorer's figures for the chosen models; their KLs are not at matched refusals."""
    for name, of_splits in scores.items():
        s = of_splits[split]
        counts = f"substring {s['substring']}/{s['n']}, opening {s['opening']}/{s['n']}, broken {s['broken']}"
        kl = f"KL first token {s['first_token_kl']:.4f}, sequence {s['sequence_kl']:.4f}"
        print(f"  scored, {split:6s} {name:9s} {counts}; {kl}")


def print_medians(found: dict[str, Any], n_seeds: int) -> None:
    """A line for each ratio."""
    print(f"\nmedian over {n_seeds} seed{'s' * (n_seeds != 1)}, heretic over sombrero:")
    for name, title in TITLES.items():
        print(f"  {title}: {verdict(name, found[name], n_seeds)}")
