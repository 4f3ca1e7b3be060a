"""FlashInfer's packages: upstream's wheel, its needs as conda packages, the recipe's build."""
