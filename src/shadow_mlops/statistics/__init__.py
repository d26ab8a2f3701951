"""Arrays in, numbers out: distances, null distributions, e-processes, profiles. No I/O."""
