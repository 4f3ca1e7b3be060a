"""Collectives over the ranks of one machine."""
