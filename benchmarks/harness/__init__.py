"""What every benchmark uses: resumable experiments, processes, synthetic stores, CPU profiles."""
