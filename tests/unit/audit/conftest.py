"""Puts `planted` on the import path."""
