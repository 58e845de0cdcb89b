"""The binaries: `python -m experiments.<name> --help`."""
