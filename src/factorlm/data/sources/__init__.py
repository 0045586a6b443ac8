"""Sources of data, one file each: `load()` returns canonical tables."""
