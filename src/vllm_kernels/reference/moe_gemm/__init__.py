"""Experts' products: fused on the CPU, grouped on the GPU."""
