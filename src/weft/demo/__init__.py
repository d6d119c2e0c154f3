"""The demonstration: experts on made-up sets, trained, compared and shown."""
