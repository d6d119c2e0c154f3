"""What is computed next, and how: queue, batches, texts in company. Knows of works, not of requests."""
