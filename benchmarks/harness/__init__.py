"""Parts that benchmarks share: resumable experiments, watched processes, synthetic stores, CPU profiles."""
