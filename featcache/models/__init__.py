"""Base and head together: predictions, export and fine-tuning."""
