"""Learning from self-generated signals: critics that may be hacked, gist tokens, learned losses; measured against
truth."""
