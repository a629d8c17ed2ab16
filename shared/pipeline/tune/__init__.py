"""Which recipe keeps most of a model within a byte budget: try, measure, choose, write."""
