"""The wiring of each process: settings in, rooms built from plain arguments."""
