"""Cases and oracles that test files share."""
