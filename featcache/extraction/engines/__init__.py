"""Where shards are computed: here, in processes, on a dask cluster, or in the jobs of an array."""

from featcache.extraction.engines.driving import Driver, check_engine
from featcache.extraction.engines.parts import parts_folder, run_part
from featcache.extraction.engines.running import Runner
from featcache.extraction.engines.tasks import Task, Work, counted, cut, in_order, task_size, travelling

__all__ = [
    "Driver",
    "Runner",
    "Task",
    "Work",
    "check_engine",
    "counted",
    "cut",
    "in_order",
    "parts_folder",
    "run_part",
    "task_size",
    "travelling",
]
