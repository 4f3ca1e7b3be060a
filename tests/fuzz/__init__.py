"""Fuzzing of the ops: ``python -m tests.fuzz --help``."""
