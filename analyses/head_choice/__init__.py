"""What the choice of heads is worth to attend-and-segment; ``segment_heads.py`` runs the study."""
