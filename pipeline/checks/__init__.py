"""Checks that change no result: a network before training, operators of a finished file."""
