"""Settings of a run: strict YAML and command line, types, ranges, and which settings have an effect."""
