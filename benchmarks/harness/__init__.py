"""Parts that benchmarks share: resumable experiments, watched and limited processes, synthetic stores, CPU profiles."""
