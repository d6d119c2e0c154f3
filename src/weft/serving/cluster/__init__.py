"""Many engines behind one door: replicas on Ray Serve. Ray itself is imported by `replica` and what stands on it."""
