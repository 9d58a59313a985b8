"""One segmenter a file; see `interp.contracts.Segmenter`."""
