"""What a model makes of a language: how its tokens cut characters, in which script it writes, how it translates."""
