"""Weights of 4 and 8 bits, activations of 16."""
