"""What every folder uses: console, command line, records, locks, which edits rerun a stage.

Nothing here can change a result: edits of this folder never rerun a stage.
"""
