"""The data sets that this library prepares itself, one family a file."""
