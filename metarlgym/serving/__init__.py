"""The vLLM server's side: starting it, and receiving weights without CUDA."""
