"""Learning from one's own signal: critics that may be hacked, gist tokens, learned losses; measured against truth."""
