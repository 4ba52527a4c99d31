"""Tasks that wait for a worker, and how often those that kill their workers are tried again."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

from featcache.extraction.engines.parts import culprit_count, forget
from featcache.extraction.engines.tasks import Outcome, Task, Work


class TaskQueue:
    """Tasks to be given to workers; one whose worker died comes next, unless it has killed too many.

    A death by which a culprit was found does not count: the task goes on without that.
    """

    MOST = 3
    """How many workers a task may kill."""

    def __init__(self, work: Work, tasks: Sequence[Task]) -> None:
        self._work, self._waiting = work, deque(tasks)
        self._deaths: Counter[int] = Counter()
        self._culprits: Counter[int] = Counter()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def take(self) -> Task:
        """Return the task to be done next."""
        return self._waiting.popleft()

    def put_back(self, task: Task) -> None:
        """Have a task done again that killed nobody."""
        self._waiting.appendleft(task)

    def killed(self, task: Task, workers: int = 1) -> Outcome | None:
        """Note a task's dead workers, and put it back; return what becomes of it if it is not to be done again."""
        found = culprit_count(self._work, task)
        if found > self._culprits[task.number]:
            self._culprits[task.number] = found
            self._deaths[task.number] = 0
        self._deaths[task.number] += workers
        if self._deaths[task.number] < self.MOST:
            self.put_back(task)
            return None
        forget(self._work, task)
        reason = f"its task of {len(task.items)} images killed {self._deaths[task.number]} workers"
        return Outcome(task.number, [], [(None, reason)] * len(task.items))
