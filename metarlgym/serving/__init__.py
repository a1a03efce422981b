"""vLLM servers: starting and checking them, and sending weights to them, with or without CUDA."""
