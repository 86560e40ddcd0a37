"""The search: a tree-structured Parzen estimator (optuna) over the formats of all layers.

Each trial draws its random numbers from the search's seed and the number of trials before it, so a
search that was interrupted and resumed goes on as it would have.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from flightrtl.errors import BuildError, UserError

from .space import Space, Tables
from .trial import Verdict

__all__ = ["Found", "Goal", "Search"]

_OVER_BUDGET = 10.0
_UNUSABLE = 50.0
_PATIENCE = 50
"""Choices over the budget in a row, for each trial that is trained, before the search gives up."""


@dataclass(frozen=True)
class Goal:
    """What a search is for.

    Parameters
    ----------
    budget : float, optional
        Greatest cost; the search then looks for the least divergence within it.
    loss : float
        Without a budget: greatest loss of top-1; the search then looks for the least cost.
    """

    budget: float | None = None
    loss: float = 0.01

    def score(self, cost: float, verdict: Verdict) -> float:
        """What the search makes small.

        Without a budget each point of top-1 lost too much counts as much as twice the cost.

        >>> Goal(loss=0.01).score(1024.0, Verdict(0.2, 0.9, 0.03))
        12.0
        """
        if self.budget is not None:
            return verdict.divergence
        return math.log2(cost) + 100 * max(0.0, verdict.lost - self.loss)

    def met(self, found: Found) -> bool:
        """Whether a trial is what was asked for."""
        return (found.cost <= self.budget if self.budget is not None
                else found.verdict.lost <= self.loss)

    def merit(self, found: Found) -> tuple[float, float]:
        """Of trials that meet it the one with the least merit is best."""
        return ((found.verdict.divergence, found.cost) if self.budget is not None
                else (found.cost, found.verdict.divergence))


@dataclass(frozen=True)
class Found:
    """A trial that was trained.

    Parameters
    ----------
    number : int
        Among those, from 1.
    chosen : dict
        Values of the space's parameters.
    cost : float
        In the objective's unit.
    verdict : Verdict
        How it did.
    """

    number: int
    chosen: dict[str, int]
    cost: float
    verdict: Verdict


class Search:
    """A study that is kept in a file while it goes on.

    Parameters
    ----------
    space : Space
        What there is to choose.
    goal : Goal
        What for.
    cost : callable
        From values of the parameters to the cost; ``BuildError`` if it cannot be built.
    judge : callable
        From tables of a recipe, and a function that is told what goes on, to a verdict.
    file : Path
        Of the study; what is in it is gone on with.
    request : dict
        Plain data that says what is searched for; a study of another request is refused.
    seed : int
        Of all random numbers.
    starts : list of dict
        The first choices, before the estimator knows anything.
    """

    def __init__(self, space: Space, goal: Goal, *,
                 cost: Callable[[dict[str, int]], float],
                 judge: Callable[[Tables, Callable[[str], None]], Verdict],
                 file: Path, request: dict[str, Any], seed: int,
                 starts: list[dict[str, int]]) -> None:
        self.space, self.goal, self.cost, self.judge, self.seed = space, goal, cost, judge, seed
        self.starts = starts
        self.reason = ""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = _study(file)
        before = self.study.user_attrs.get("request")
        request = json.loads(json.dumps(request))
        if before is None:
            self.study.set_user_attr("request", request)
        elif before != request:
            differ = sorted(key for key in {*before, *request}
                            if before.get(key) != request.get(key))
            raise UserError(f"{file}: this study is of another search ({', '.join(differ)} differ);"
                            " leave out --resume, or give another --output")
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self.study.tell(trial.number, state=TrialState.FAIL)    # it was interrupted

    @property
    def found(self) -> list[Found]:
        """All trials that were trained, in order."""
        trials = [trial for trial in self._finished() if "verdict" in trial.user_attrs]
        return [Found(number, dict(trial.params), trial.user_attrs["cost"],
                      Verdict(**trial.user_attrs["verdict"]))
                for number, trial in enumerate(trials, 1)]

    @property
    def best(self) -> Found | None:
        """The trial to use, if one meets the goal."""
        return min((each for each in self.found if self.goal.met(each)), key=self.goal.merit,
                   default=None)

    def _finished(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))

    def step(self, report: Callable[[str], None] = lambda text: None) -> Found:
        """One more trial that is trained; choices over the budget on the way are only noted.

        Raises
        ------
        BuildError
            If no choice within the budget is found.
        """
        for _ in range(_PATIENCE):
            done = len(self._finished())
            self.study.sampler = optuna.samplers.TPESampler(
                seed=self.seed * 1_000_003 + done, n_startup_trials=len(self.starts))
            if done < len(self.starts):
                self.study.enqueue_trial(self.starts[done])
            trial = self.study.ask()
            chosen = self.space.suggest(trial)
            try:
                cost = self.cost(chosen)
                if self.goal.budget is not None and cost > self.goal.budget:
                    self.reason = f"it costs {cost:,.0f}, and the budget is {self.goal.budget:,.0f}"
                    self.study.tell(trial, _OVER_BUDGET + math.log2(cost / self.goal.budget))
                    continue
                verdict = self.judge(self.space.tables(chosen), report)
            except BuildError as error:             # it does not fit, or training diverged
                self.reason = str(error)
                self.study.tell(trial, _UNUSABLE)
                continue
            trial.set_user_attr("cost", cost)
            trial.set_user_attr("verdict", asdict(verdict))
            self.study.tell(trial, self.goal.score(cost, verdict))
            return self.found[-1]
        raise BuildError(f"{_PATIENCE} choices in a row cannot be used; the last: {self.reason}",
                         knob="a larger --budget, another --board, or formats of fewer bits "
                              "(--formats)")


def _study(file: Path) -> optuna.Study:
    """The study in a file, which is made if it is not there."""
    try:
        return optuna.create_study(study_name="mixed", load_if_exists=True,
                                   storage=JournalStorage(JournalFileBackend(str(file))))
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not a study, or damaged ({type(error).__name__}); leave out "
                        "--resume") from None
