"""What a run is told: fields, their checks, recipes and the command line."""
