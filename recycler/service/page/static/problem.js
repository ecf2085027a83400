// A problem has nothing to load.
