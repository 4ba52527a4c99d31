"""What is wrong with a cache's images: copies, leaks, wrong labels, outliers; and a source without them."""

from featcache.insight.audit.auditing import audit
from featcache.insight.audit.cleaning import Cleaned, clean
from featcache.insight.audit.findings import KINDS, AuditReport, Finding, Image

__all__ = ["KINDS", "AuditReport", "Cleaned", "Finding", "Image", "audit", "clean"]
