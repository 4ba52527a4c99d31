"""The command line: parse → call one library function → print."""

from __future__ import annotations

import importlib
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from featcache.cli.app import app, main

for _group in ("extract", "heads", "models", "insight", "bases", "cache", "demo"):  # the order of --help
    importlib.import_module(f"featcache.cli.{_group}")

__all__ = ["app", "main"]
