"""The command line: ml-platform."""
