"""Which pictures may show a name in their pixels, so that somebody must look before they are let in."""

from typing import TYPE_CHECKING

from wardround.images.dicom.values import items, text, texts

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

BURNED_IN = "their header says that text is burned in"
CAPTURED = "secondary captures of a screen, a film or a document"
DERIVED = "derived secondary images, as saved screens are"
WITHOUT_REGIONS = "ultrasound without a mask of its regions"

_CAPTURES = ("1.2.840.10008.5.1.4.1.1.7",)
_ULTRASOUND = ("1.2.840.10008.5.1.4.1.1.3", "1.2.840.10008.5.1.4.1.1.6")
_ULTRASOUND_MODALITIES = ("US", "IVUS")


def refusal(found: "Dataset", sop_class: str) -> str | None:
    """Why a picture must be looked at before it is used, or None.

    Args:
        found: its header.
        sop_class: what kind of object it is.
    """
    if text(found, "BurnedInAnnotation").upper() == "YES":
        return BURNED_IN
    if _is_of(sop_class, _CAPTURES) or text(found, "ConversionType"):
        return CAPTURED
    image_type = [value.upper() for value in texts(found, "ImageType")]
    if image_type[:2] == ["DERIVED", "SECONDARY"] or any("SCREEN" in value for value in image_type):
        return DERIVED
    is_ultrasound = text(found, "Modality").upper() in _ULTRASOUND_MODALITIES or _is_of(sop_class, _ULTRASOUND)
    if is_ultrasound and not items(found, "SequenceOfUltrasoundRegions"):
        return WITHOUT_REGIONS
    return None


def _is_of(sop_class: str, families: tuple[str, ...]) -> bool:
    return any(sop_class == family or sop_class.startswith(f"{family}.") for family in families)
