"""One hospital's account of every patient: charged before release, refused past the limit, verified."""
