"""The frozen trunk: found, loaded, normalised once, and known by its digest."""
