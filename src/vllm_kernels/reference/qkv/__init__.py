"""Queries, keys and values between their projections and attention, also into the paged cache."""
