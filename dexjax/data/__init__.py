"""Readers of public data sets: files of others in, typed records in SI units out."""
