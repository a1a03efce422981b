"""Models: loading pretrained ones, making small ones from scratch, and the project's own sequence networks."""
