"""Small trainers written in plain PyTorch."""
