"""What any program needs and torch, NumPy and Zarr do not bring; it knows none of our nouns."""
