"""The page of `weft serve`: what is asked and answered, as HTML that needs no script; nothing here speaks HTTP."""
