"""The study file: one TOML, read into nested frozen models; what it does not know, it refuses.

What changes the guarantee stands in `[privacy]`, what changes speed in `[performance]`. Give epsilon *or*
noise_multiplier; the other is computed and recorded. Not private is a plan too: `plan = "none"`.
"""

from wardround.config.read import parse_study, read_study
from wardround.config.study import Study

__all__ = ["Study", "parse_study", "read_study"]
