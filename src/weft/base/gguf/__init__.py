"""Files of llama.cpp's form as bases: what their headers say, and how they become a checkpoint."""
