"""The forms of a model that are worth measuring: smaller, quantized, folded."""
