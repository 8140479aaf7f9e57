"""NIfTI files that tests read back."""

import gzip

import numpy as np


def nifti_bytes(values, affine):
    """A compressed NIfTI file of a volume (channel, x, y, z) or (x, y, z); integers stay integers."""
    import nibabel

    last = values if values.ndim == 3 else (values[0] if len(values) == 1 else np.moveaxis(values, 0, 3))
    image = nibabel.Nifti1Image(np.ascontiguousarray(last), affine)
    return gzip.compress(image.to_bytes(), 3, mtime=0)
