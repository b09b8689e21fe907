"""Programs for emulated cores: built, run, and counted to the instruction."""
