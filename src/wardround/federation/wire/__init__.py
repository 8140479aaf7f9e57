"""Bytes of every message between the coordinator and a hospital: a JSON header, then raw arrays."""
