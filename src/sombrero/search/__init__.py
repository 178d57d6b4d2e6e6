"""Search for an edit: the space, the score of a trial, the study, the front."""

from sombrero.search.agreement import Agreement, screening_agreement
from sombrero.search.earlier import earlier_points
from sombrero.search.fair_space import FairSpace, unit_sets
from sombrero.search.front import Constraints, has_stalled, pareto_front, rank_finalists
from sombrero.search.objective import TrialBench
from sombrero.search.pool import WorkerPool
from sombrero.search.scoring import Scorer, SerialScorer
from sombrero.search.space import ALPHAS, BETAS, SearchSpace, make_space
from sombrero.search.study import Limits, finished_scores, open_study, run_study

__all__ = [
    "ALPHAS",
    "BETAS",
    "Agreement",
    "Constraints",
    "FairSpace",
    "Limits",
    "Scorer",
    "SearchSpace",
    "SerialScorer",
    "TrialBench",
    "WorkerPool",
    "earlier_points",
    "finished_scores",
    "has_stalled",
    "make_space",
    "open_study",
    "pareto_front",
    "rank_finalists",
    "run_study",
    "screening_agreement",
    "unit_sets",
]
