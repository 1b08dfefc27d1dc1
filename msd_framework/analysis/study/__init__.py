"""Many runs over seeds, and what may be said of their differences."""
