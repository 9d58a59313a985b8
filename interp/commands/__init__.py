"""The command line's commands, one a file: its help, its options, what it does. `interp.cli` finds them by name."""
