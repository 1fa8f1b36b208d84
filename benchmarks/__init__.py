"""Our kernels against their peers, interleaved in one run, as ratios: `python -m benchmarks`."""
