"""From logits to tokens: selection of columns, choice of a token, acceptance of drafted ones."""
