"""The command line: words and exit codes, no logic. One file per command, imported when asked for."""
