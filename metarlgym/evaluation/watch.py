"""Watch: what an evaluation says about itself while it plays."""

from __future__ import annotations

from metarlgym.datatypes import MetaTrajectory
from metarlgym.evaluation.choice import Choice
from metarlgym.rollout.meter import Meter


class Watch:
    """Is told what happens; this one only counts. With several processes, each has its own, for its own trials."""

    def __init__(self) -> None:
        self.meter = Meter()
        """Counts what the evaluated policy plays; random play is not in it."""

    def begin(self, name: str, trials: int) -> None:
        """A pass begins: `main`, `random`, `no_memory` or `shuffled`.

        Args:
            name: the pass.
            trials: number of its trials; 0 if it is not chosen yet.
        """

    def trial(self, name: str, index: int, trajectory: MetaTrajectory) -> None:
        """A trial has ended. Trials end in any order."""

    def chosen(self, choice: Choice) -> None:
        """The number of trials has been chosen."""
