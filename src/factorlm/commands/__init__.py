"""The commands: each parses a config, calls the stages and says where the result is."""
