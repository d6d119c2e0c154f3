"""The way of one request: let in, told who answers, encoded, put together again."""
