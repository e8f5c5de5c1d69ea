"""Of CuPy's core only what the engine sets there."""
