"""From a complete run to a run folder: settings, assembly, the loop and its parts."""
