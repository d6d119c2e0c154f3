"""What is read off a model beside its states: gates, answers of heads, masked words, similarities of pairs."""
