"""Configuration of a run: fields, their checks, recipes and the command line."""
