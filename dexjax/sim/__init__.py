"""Physics engines behind one contract (`types.py`)."""
