"""The page of an audit: what was claimed, every lower bound beside its ceiling, and the verdict."""

from collections.abc import Sequence

from wardround.audit.broken import ALPHA, Tried
from wardround.audit.findings import CONFIDENCE, NOT_COVERED, Audit
from wardround.report.page import rendered


def page_of(audit: Audit) -> str:
    """Returns the page of one audit. Everything that came with the study is text in it, never markup."""
    return rendered(
        "audit.html.j2", "wardround.audit", a=audit, tried=(), confidence=CONFIDENCE, not_covered=NOT_COVERED
    )


def page_of_broken(tried: Sequence[Tried]) -> str:
    """Returns the page of the broken schemes and their repairs."""
    return rendered("audit.html.j2", "wardround.audit", a=None, tried=tried, confidence=1 - ALPHA, not_covered=())
