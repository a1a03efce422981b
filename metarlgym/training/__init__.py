"""Training: meta-RL with TRL's GRPO as the outer loop over trials."""
