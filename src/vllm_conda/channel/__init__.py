"""Channels that are kept: packages go in, are yanked, pruned, mirrored and carried to a site."""
