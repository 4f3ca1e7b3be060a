"""Node types of a site, solved before anything is installed there."""
