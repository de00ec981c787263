"""What runs in the measured processes: each file is started as ``python -m benchmarks.contenders.<name>``."""
