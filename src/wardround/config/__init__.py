"""The study file: one TOML, read into nested frozen models; what it does not know, it refuses.

What changes the guarantee stands in `[privacy]`, what changes speed in `[performance]`. Give epsilon *or*
noise_multiplier; the other is computed and recorded. Not private is a plan too: `plan = "none"`.
"""

from wardround.config.data import DataSection, HospitalsSection, PhantomSection, SiteSection
from wardround.config.federation import FederationSection
from wardround.config.model import AugmentSection, ModelSection, PerformanceSection, TrainingSection
from wardround.config.privacy import PrivacySection
from wardround.config.read import parse_study, read_study
from wardround.config.study import Study, StudySection

__all__ = [
    "AugmentSection",
    "DataSection",
    "FederationSection",
    "HospitalsSection",
    "ModelSection",
    "PerformanceSection",
    "PhantomSection",
    "PrivacySection",
    "SiteSection",
    "Study",
    "StudySection",
    "TrainingSection",
    "parse_study",
    "read_study",
]
