"""Checks that a finished package keeps what its name promises."""
