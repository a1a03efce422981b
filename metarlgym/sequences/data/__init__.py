"""Export of source sequences to files that other programs can read, and PyTorch data sets."""
