"""Paths of the server: a file of this folder is a group of them and has a `router`; the app finds it by its name."""
