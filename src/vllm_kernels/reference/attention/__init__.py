"""Paged attention: the CPU's ops and the GPU's."""
