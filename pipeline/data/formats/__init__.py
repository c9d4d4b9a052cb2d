"""One module per format that pictures and masks come in; `registry` picks it."""
