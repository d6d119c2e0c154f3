"""Answers of trained experts and mixtures: inference, scores, predictions, generation, recognition."""
