"""Mixture of experts: choosing experts, ordering tokens by expert, the router's products."""
