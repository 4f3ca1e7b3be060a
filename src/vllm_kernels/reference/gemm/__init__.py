"""Dense products with 16-bit, FP8 and INT8 operands."""
