"""The command `metarlgym`: one module per subcommand. Model libraries are imported inside the commands only."""
