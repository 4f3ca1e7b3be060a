"""Pages, README's table and plots of the recorded figures."""
