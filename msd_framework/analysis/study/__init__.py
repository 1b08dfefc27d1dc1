"""Many runs over seeds, and their differences."""
