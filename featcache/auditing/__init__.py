"""What is wrong with a cache's images: copies, leaks, wrong labels, outliers; and a source without them."""

from featcache.auditing.auditing import audit
from featcache.auditing.cleaning import Cleaned, clean
from featcache.auditing.findings import KINDS, AuditReport, Finding, Image

__all__ = ["KINDS", "AuditReport", "Cleaned", "Finding", "Image", "audit", "clean"]
