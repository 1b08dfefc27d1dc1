"""Will this configuration work? Measures a teacher, a student and one step, and judges what is found."""
