"""Settings of a run: strict parsing of YAML and the command line, types, ranges, and detection of unused settings."""
