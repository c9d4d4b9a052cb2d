"""Checks that change no result: of a network before training, of the operators of a file."""
