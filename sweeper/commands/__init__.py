"""Commands of the command line, by what they are for, and what they share."""
