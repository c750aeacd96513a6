"""The step library: one small module per family; `registry` gathers them."""
