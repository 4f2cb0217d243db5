"""The command line: parse, call one function, present. Nobody imports it."""
