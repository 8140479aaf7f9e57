"""The page of an audit: what was claimed, every lower bound beside its ceiling, and the verdict."""

from collections.abc import Sequence

import numpy as np

from wardround.audit.broken import Tried
from wardround.audit.charts import worlds_chart
from wardround.audit.curious import THRESHOLDS
from wardround.audit.findings import CONFIDENCE, Audit
from wardround.audit.schemes import ALPHA
from wardround.audit.sights import Inversion
from wardround.images.quality.thumbnails import data_uri
from wardround.report.page import markup_of, rendered
from wardround.types import Pictures


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


def page_of_inversion(found: Inversion) -> str:
    """Returns the page of gradient inversion. It shows patients: it is for the hospital that holds them."""
    return rendered("inversion.html.j2", "wardround.audit", r=found, thresholds=THRESHOLDS, uri=_uri)


def _uri(picture: Pictures) -> str:
    """Returns a picture, (channel, height, width), of which the first or the first three channels are shown."""
    shown = picture[:3] if len(picture) >= 3 else np.repeat(picture[:1], 3, axis=0)
    return data_uri(np.ascontiguousarray(shown.transpose(1, 2, 0)))
