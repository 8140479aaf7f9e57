"""DICOM as archives export it: pseudonyms at the door, series in order, values in physical units."""
