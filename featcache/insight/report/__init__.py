"""One page about a model or a cache: how good, where it fails, what it was made of."""

from featcache.insight.report.writing import Report, report

__all__ = ["Report", "report"]
