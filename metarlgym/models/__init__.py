"""Models: loading, making small ones from scratch, and the networks with memory that come with the project."""
