"""Tasks that kill who does them."""

from __future__ import annotations

from featcache.extraction.engines.parts import forget, guilty_count
from featcache.extraction.engines.tasks import Outcome, Task, Work


class Losses:
    """Counts the workers that each task has killed.

    A death by which an image was found guilty does not count: the task goes on without that.

    Parameters
    ----------
    work : Work
        What the tasks have in common.
    """

    MOST = 3
    """How many workers a task may kill."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._deaths: dict[int, int] = {}
        self._guilty: dict[int, int] = {}

    def killed(self, task: Task, workers: int = 1) -> Outcome | None:
        """Note a task's dead workers; return what becomes of it if it is not to be done again."""
        found = guilty_count(self._work, task)
        if found > self._guilty.get(task.number, 0):
            self._guilty[task.number] = found
            self._deaths[task.number] = 0
        self._deaths[task.number] = self._deaths.get(task.number, 0) + workers
        if self._deaths[task.number] < self.MOST:
            return None
        forget(self._work, task)
        reason = f"its task of {len(task.items)} images killed {self._deaths[task.number]} workers"
        return Outcome(task.number, [], [(None, reason)] * len(task.items))
