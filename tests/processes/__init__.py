"""What users rely on between real processes."""
