"""What people look at: audits, advice, neighbours and reports."""
