"""What the experts did to the model: a question a file, each from base, experts and data to a section of a document."""
