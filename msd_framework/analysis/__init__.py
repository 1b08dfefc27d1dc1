"""Studies, reports and plots."""
