"""The `metarlgym` command, one module per subcommand. Model libraries are imported only inside the commands."""
