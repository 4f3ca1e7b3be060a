"""Builds spread over a cluster's machines, one task a job of the matrix."""
