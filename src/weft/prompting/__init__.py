"""Prompting: what a decoder says of a task's rows when it is asked in words, beside experts trained on them."""
