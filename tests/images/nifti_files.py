"""NIfTI files that tests read back."""

import gzip
import json

import numpy as np


def nifti_bytes(values, affine):
    """A compressed NIfTI file of a volume (channel, x, y, z) or (x, y, z); integers stay integers."""
    import nibabel

    last = values if values.ndim == 3 else (values[0] if len(values) == 1 else np.moveaxis(values, 0, 3))
    image = nibabel.Nifti1Image(np.ascontiguousarray(last), affine)
    return gzip.compress(image.to_bytes(), 3, mtime=0)


def write_boxes(root, names, generator, affine):
    """Volumes of noise with a bright and a less bright box, in the layout of Decathlon."""
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    training = []
    for name in names:
        mask = np.zeros((16, 16, 16), dtype=np.uint8)
        x, y = generator.integers(2, 8, 2)
        mask[x : x + 6, y : y + 6, 3:8] = 1
        mask[x : x + 6, y : y + 6, 8:13] = 2
        values = (generator.normal(size=mask.shape) * 20 + mask * 150 + 300).astype(np.int16)
        (root / f"imagesTr/{name}.nii.gz").write_bytes(nifti_bytes(values, affine))
        (root / f"labelsTr/{name}.nii.gz").write_bytes(nifti_bytes(mask, affine))
        training.append({"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"})
    labels = {"0": "background", "1": "front", "2": "back"}
    description = {"name": "boxes", "modality": {"0": "MRI"}, "labels": labels, "training": training}
    (root / "dataset.json").write_text(json.dumps(description))
