"""Numbers of lossless block speculation."""
