"""What a pretrained encoder makes of places on slides: computed once and kept on disk."""
