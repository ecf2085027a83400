"""The service: pools, studies and exports over HTTP, and the page that people use."""
