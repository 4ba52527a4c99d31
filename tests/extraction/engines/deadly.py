"""A source that kills whoever reads one of its images, unless that is the process that made it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from featcache.sources import Item
from featcache.sources.files import FileSource
from featcache.sources.opening import open_source


class DeadlySource(FileSource):
    """Files, one of which is fatal."""

    def __init__(self, root: Path, fatal: str) -> None:
        super().__init__(root, open_source(root).items)
        self.fatal, self.maker = fatal, os.getpid()

    def read(self, item: Item, /) -> bytes:
        if item.path == self.fatal and os.getpid() != self.maker:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(item)
