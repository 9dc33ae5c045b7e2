"""What is claimed is measured here: each module is a `python -m benchmarks.NAME [--quick] [--json]`."""
