"""The command line: the words of the Python API, one function a command."""
