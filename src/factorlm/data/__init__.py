"""Tables, splits and fields: from a source to index arrays, everything fitted on train only."""
