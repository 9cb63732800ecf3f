"""The command line: one click group whose commands are imported when they are called."""
