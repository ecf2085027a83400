"""One file a change of the schema; frozen once released."""
