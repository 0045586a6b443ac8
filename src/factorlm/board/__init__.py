"""The board: a store of runs in a browser, on this machine only."""
