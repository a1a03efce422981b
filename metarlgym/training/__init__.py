"""Training: TRL's GRPO as the outer loop over trials."""
