"""Building, testing and publishing the recipe's packages into a local channel."""
