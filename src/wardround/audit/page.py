"""The page of an audit: what was claimed, every lower bound beside its ceiling, and the verdict."""

from collections.abc import Sequence

from wardround.audit.broken import Tried
from wardround.audit.charts import worlds_chart
from wardround.audit.findings import CONFIDENCE, Audit
from wardround.audit.schemes import ALPHA
from wardround.report.page import markup_of, rendered


def page_of(audit: Audit) -> str:
    """Returns the page of one audit. Everything that came with the study is text in it, never markup."""
    return rendered("audit.html.j2", "wardround.audit", a=audit, tried=(), confidence=CONFIDENCE)


def page_of_broken(tried: Sequence[Tried]) -> str:
    """Returns the page of the broken schemes and their repairs."""
    return rendered(
        "audit.html.j2",
        "wardround.audit",
        a=None,
        tried=[(one, markup_of(worlds_chart(one.found)) if one.broken else None) for one in tried],
        confidence=1 - ALPHA,
    )
