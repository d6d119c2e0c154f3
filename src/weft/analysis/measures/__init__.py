"""What is measured: functions of tensors, which know of no expert, no text and no report."""
