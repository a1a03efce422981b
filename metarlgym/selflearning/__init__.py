"""Learning from self-generated signals, measured against truth: critics that may be hacked, gist tokens, learned
losses."""
