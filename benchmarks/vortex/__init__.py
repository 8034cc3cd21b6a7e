"""Evidence on the parts of a VORTEX model."""
