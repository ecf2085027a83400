"""The data types that all other packages use: plain data, without files or clocks."""
