"""conda-forge's side: variant configuration, CI files and their settings, from the one table."""
