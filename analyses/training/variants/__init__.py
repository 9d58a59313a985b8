"""Short trainings of mini-difflmm with parts of its eyes taken away."""
